"""What ``inspect`` says of how shards were made is what they were made by."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from helpers import small_plans
from repurpose_hpc.commands.inspect import inspect_shards, render
from repurpose_hpc.commands.restructure import parse
from repurpose_hpc.io.samples import Samples
from repurpose_hpc.plan.files.store import open_plan
from repurpose_hpc.report.made import command, made
from repurpose_hpc.report.provenance import origin_of
from repurpose_hpc.report.schema import InspectReport, problems
from repurpose_hpc.report.sources import open_source
from repurpose_hpc.restructure.job import restructure_to
from repurpose_hpc.restructure.team import Team

OPTIONS = [
    "",
    "--comm-budget 0.123456789 --seed 7 --input-placement root",
    "--part-weights 0.3333333333333333,2,1 --lossless --density 0.5 --dtype float64",
    "--max-accuracy-drop 0.3 --method magnitude --finetune 3",
    "--assignment hypergraph --comm-budget 1 --memory-limits 1.5,1.5,1.5 --round-cost 2500",
]


def parsed(words):
    return parse(["model.npz", "--out", "shards", *words])


def kept(args):
    """What a plan keeps of a command line, once it is on disk."""
    refined = {} if args.finetune is None else {"refined": {"epochs": args.finetune, "seed": 0}}
    plan = {"calibration_sha256": "c0", "options": asdict(args.options), "dtype": args.dtype, **refined}
    return json.loads(json.dumps(plan))


@pytest.mark.parametrize("words", OPTIONS)
def test_the_command_is_the_one_that_made_them(words):
    args = parsed(["--calibration", "x.npz", "--workers", "3", *words.split()])
    name, made_by, model, *again = command(kept(args)).split()
    assert (name, made_by, model) == ("repurpose-hpc", "restructure", "MODEL")
    assert parsed(again).options == args.options
    assert (parsed(again).dtype, parsed(again).finetune) == (args.dtype, args.finetune)


def test_shards_tell_how_they_were_made(tmp_path):
    network = small_plans.random_network(head="identity")
    x = np.random.default_rng(0).standard_normal((200, network.inputs))
    options = parsed(["--calibration", "x", "--workers", "3", "--comm-budget", "0.3", "--seed", "5"]).options
    samples, out = Samples.of(x), tmp_path / "shards"
    restructure_to(out, network, samples, options, np.float32, lambda line: None, Team())
    report = inspect_shards(tmp_path / "shards")
    assert problems(report, InspectReport) == []
    assert report["made"] == made(open_plan(tmp_path / "shards").provenance)
    assert report["made"]["model_fingerprint"] == network.fingerprint()
    assert report["made"]["calibration_samples"] == 200
    words = "MODEL --calibration DATA --workers 3 --comm-budget 0.3 --seed 5"
    assert origin_of(open_source(out)).command == f"repurpose-hpc restructure {words} --out {out}"
    assert f"made by  repurpose-hpc restructure {words}" in render(report).splitlines()
