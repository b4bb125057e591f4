"""A plan on disk: ``plan.h5`` and one ``worker-0000.h5`` for each worker, in one directory.

Everything is written into a temporary directory beside the final one and renamed when it is
complete.  ``plan.h5`` records owners, masks, scales, the traffic between workers, what the plan was
made from and the SHA-256 of every shard; nothing in it depends on when or where it was made.

A file starts with one line of text (in what HDF5 calls its user block): format, format version and
SHA-256 of the HDF5 content.  It is checked first, as the HDF5 library may crash on damage: one pass over
the file, a piece at a time.  The large arrays of a shard are then not read again, but mapped.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import h5py
import numpy as np

from repurpose_hpc.errors import UserError
from repurpose_hpc.io.atomic import (
    followed,
    put_directory_in_place,
    refusal,
    sync_directory,
    sync_file,
    temporary_directory,
)
from repurpose_hpc.io.reading import reading
from repurpose_hpc.io.sealed import HEADER_BYTES, check_seal, header, sha256_of, version_of
from repurpose_hpc.model.ends import Ends
from repurpose_hpc.model.network import Network
from repurpose_hpc.model.texts import NO_RULES, TextRules
from repurpose_hpc.plan.assemble import assemble
from repurpose_hpc.plan.files.blocks import StoredBlocks, has_sparse, tied_mixings, write_blocks
from repurpose_hpc.plan.files.checks import check_counts, check_shard, check_tokens
from repurpose_hpc.plan.files.content import ALIGNMENT, MAPPED_BYTES, Content
from repurpose_hpc.plan.files.ends import read_ends, write_ends, write_names
from repurpose_hpc.plan.files.graph import read_graph, write_graph
from repurpose_hpc.plan.files.mapped import MappedFile
from repurpose_hpc.plan.files.texts import described, read_rules
from repurpose_hpc.plan.masks import MixingPlan
from repurpose_hpc.plan.plan import Plan
from repurpose_hpc.plan.shard import Shard, make_shard

FORMAT = "repurpose-hpc"
FORMAT_VERSION = 4
# Of a plan.h5 with ends: a program that knows nothing of them must not run it.
FORMAT_VERSION_WITH_ENDS = 5
# Of a plan.h5 of a network of tokens.
FORMAT_VERSION_OF_TOKENS = 6
# Of a shard with weights that are in plan.h5 alone.
FORMAT_VERSION_TIED = 7
# Of a plan.h5 of a network of tokens of which every worker computes whole mixings from ghosts.
FORMAT_VERSION_EVERYWHERE = 8
# Of a plan.h5 with neurons that travel as float16: a program that knows nothing of them would send others.
FORMAT_VERSION_WITH_OUTLIERS = 9
# Of a shard with weights of which only those that are not zero are stored.
FORMAT_VERSION_SPARSE = 10
_OF_TOKENS = (FORMAT_VERSION_OF_TOKENS, FORMAT_VERSION_EVERYWHERE)
_VERSIONS = range(FORMAT_VERSION, FORMAT_VERSION_SPARSE + 1)
PLAN_FILE = "plan.h5"
# The attribute that tells the comm dtype, under the name that it has in this format version.
COMM_DTYPE_ATTRIBUTE = "wire"

# Attributes of plans of mixings, in the order in which they are stored.
_MASKS = tuple(field.name for field in fields(MixingPlan))


@dataclass(frozen=True, eq=False)
class StoredPlan:
    """The content of ``plan.h5``.

    Attributes:
        directory: where it was read from.
        plan: owners, masks, comm dtype, scales and outliers.
        shard_sha256: SHA-256 (hex) of each worker's file.
        provenance: model fingerprint, options, versions, calibration hash and seed, ...
        traffic: values per sample that cross, by mixing: (P, P) int64, [p, q] from worker p to q.
        ends: of the model.
        longest: tokens that a sequence may have; 0: the network is not one of tokens.
        texts: what the model says of them.
    """

    directory: Path
    plan: Plan
    shard_sha256: tuple[str, ...]
    provenance: dict
    traffic: Mapping[str, np.ndarray]
    ends: Ends = Ends()
    longest: int = 0
    texts: TextRules = NO_RULES

    def check_samples(self) -> None:
        """Refuse a network of tokens, where samples do not belong to sequences.

        Raises:
            UserError: it is one.
        """
        if self.longest:
            raise UserError(
                f"{self.directory}: expected shards of a network of samples, found those of a transformer "
                "for texts of any lengths; generate and infer run them, and for others restructure MODEL "
                "with the length of all sequences, --input-shape ids=1x64, and with --calibration DATA"
            )

    def traffic_matrix(self) -> np.ndarray:
        """Values per sample that cross, of all mixings: (P, P) int64, [p, q] from worker p to q."""
        workers = self.plan.workers
        return np.sum([np.zeros((workers, workers), np.int64), *self.traffic.values()], axis=0)


def shard_path(directory: Path, worker: int) -> Path:
    """The file of ``worker`` in ``directory``."""
    return directory / f"worker-{worker:04d}.h5"


def plan_files(directory: Path) -> Iterator[Path]:
    """The files of a plan in ``directory``, of whatever number of workers."""
    yield directory / PLAN_FILE
    yield from sorted(directory.glob("worker-*.h5"))


def write_plan(
    directory: Path,
    network: Network,
    plan: Plan,
    provenance: dict,
    dtype: type = np.float32,
    texts: TextRules = NO_RULES,
) -> None:
    """Write the plan and every worker's shard; an earlier plan in ``directory`` is replaced.

    Args:
        directory: the final place; its parent is created.
        network: restructured, its weights zero outside the masks of ``plan``.
        plan: for ``network``.
        provenance: what JSON can hold; stored as it is.
        dtype: of the weights in the shards.
        texts: of a network of tokens, what its model says of them.

    Raises:
        UserError: no permission, no space, or ``directory`` holds something else than a plan.
    """
    tied = tied_mixings(network)
    with writing_plan(directory) as temporary:
        shards = (make_shard(network, plan, worker, dtype) for worker in range(plan.workers))
        digests = [write_shard(temporary, shard, tied) for shard in shards]
        write_plan_file(temporary, network, plan, digests, provenance, texts)


@contextmanager
def writing_plan(directory: Path) -> Iterator[Path]:
    """A block that fills a temporary directory, which then becomes ``directory``.

    Another process may write shards to it meanwhile.  If the block fails the temporary directory goes, and
    ``directory`` stays as it is.

    Raises:
        UserError: no permission, no space, or ``directory`` holds something else than a plan.
    """
    directory = followed(Path(directory))
    with _refusing(directory):
        _check_replaceable(directory)
        directory.parent.mkdir(parents=True, exist_ok=True)
        with temporary_directory(directory) as temporary:
            complete = temporary / "complete"
            complete.mkdir()
            yield complete
            for file in complete.iterdir():
                sync_file(file)
            sync_directory(complete)
            put_directory_in_place(complete, directory)


def place_plan(complete: Path, directory: Path) -> None:
    """Give a complete plan its final name; an earlier plan there is replaced.

    Args:
        complete: its directory, on the same file system.
        directory: the final place.

    Raises:
        UserError: no permission, or ``directory`` holds something else than a plan.
    """
    directory = followed(directory)
    with _refusing(directory):
        _check_replaceable(directory)
        put_directory_in_place(complete, directory)


def write_shard(temporary: Path, shard: Shard, tied: Mapping[str, str]) -> str:
    """Write the file of one worker; its SHA-256 (hex).

    Args:
        temporary: of ``writing_plan``.
        shard: of the worker.
        tied: see ``blocks.tied_mixings``.
    """
    path = shard_path(temporary, shard.worker)
    with _creating(path, lambda file: _version_of_shard(file, tied)) as file:
        for name in ("worker", "workers", "plan_identity"):
            file.attrs[name] = getattr(shard, name)
        file.attrs[COMM_DTYPE_ATTRIBUTE] = shard.comm_dtype
        write_graph(file.create_group("graph"), shard.graph)
        own = file.create_group("own", track_order=True)
        for name, neurons in shard.own.items():
            own[name] = neurons
        write_blocks(file.create_group("blocks", track_order=True), shard.blocks, tied)
    return file_sha256(path)


def _version_of_shard(file: h5py.File, tied: Mapping[str, str]) -> int:
    if has_sparse(file["blocks"]):
        return FORMAT_VERSION_SPARSE
    return FORMAT_VERSION_TIED if tied else FORMAT_VERSION


def write_plan_file(
    temporary: Path,
    network: Network,
    plan: Plan,
    digests: Sequence[str],
    provenance: dict,
    texts: TextRules = NO_RULES,
) -> None:
    """Write the plan beside the shards.

    Args:
        temporary: of ``writing_plan``.
        network: with the ends of its model; the mixings may be bare.
        plan, provenance, texts: see ``write_plan``.
        digests: of the shards, in order.
    """
    with _creating(temporary / PLAN_FILE, lambda _: _version_for(network, plan)) as file:
        file.attrs["workers"] = plan.workers
        file.attrs["input_placement"] = plan.input_placement
        file.attrs[COMM_DTYPE_ATTRIBUTE] = plan.comm_dtype
        # Not attributes: those end at 64 KiB.
        file["shard_sha256"] = np.array(digests, "S")
        file["provenance"] = np.bytes_(json.dumps(provenance, sort_keys=True))
        owners = file.create_group("owners", track_order=True)
        for name, owner in plan.owners.items():
            owners[name] = owner
        scales = file.create_group("scales", track_order=True)
        for tensor, values in plan.scales.items():
            scales[tensor] = values
        mixings = file.create_group("mixings", track_order=True)
        for mixing in network.mixings:
            group = mixings.create_group(mixing.name)
            for name in _MASKS:
                mask = getattr(plan.mixings[mixing.name], name).astype(np.uint8)
                group.create_dataset(name, data=mask, compression="gzip")
            group["traffic"] = plan.traffic(network, mixing)
        for name, mapping in (("relays", plan.relays), ("copies", plan.copies)):
            if mapping:
                file[name] = np.bytes_(json.dumps(dict(mapping)))
        for group_name, masks in (("removed", plan.removed), ("outliers", plan.outliers)):
            if masks:
                group = file.create_group(group_name, track_order=True)
                for name, mask in masks.items():
                    group[name] = mask.astype(np.uint8)
        if network.ends:
            write_ends(file.create_group("ends"), network.ends)
        write_names(file, network.ends)
        if network.longest:
            file.attrs["longest"] = network.longest
            file["texts"] = np.bytes_(described(texts))


def check_place(directory: Path) -> None:
    """Find out now, not at the end of a long run, that no plan can be written to ``directory``.

    Raises:
        UserError: it holds something else, or cannot be made.
    """
    if directory.name in ("", ".."):
        raise UserError(
            f"{directory}: expected a directory with a name, as it is replaced as a whole; "
            "choose another directory"
        )
    with _refusing(directory):
        _check_replaceable(directory)
        existing = next(parent for parent in directory.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass


def open_plan(directory: str | Path) -> StoredPlan:
    """Read ``plan.h5``, without any weights.

    Args:
        directory: of the shards.

    Raises:
        UserError: missing, unreadable, not a plan, or of another format version.
    """
    directory = Path(directory)
    refuse_file(directory)
    path = directory / PLAN_FILE
    with _reading(path) as content:
        file = content.file
        plan = Plan(
            workers=int(file.attrs["workers"]),
            input_placement=file.attrs["input_placement"],
            owners={name: owner[()] for name, owner in file["owners"].items()},
            mixings={
                name: MixingPlan(*(group[mask][()].astype(bool) for mask in _MASKS))
                for name, group in file["mixings"].items()
            },
            scales={tensor: scales[()] for tensor, scales in file["scales"].items()},
            comm_dtype=file.attrs[COMM_DTYPE_ATTRIBUTE],
            relays=json.loads(file["relays"][()]) if "relays" in file else {},
            removed={name: mask[()].astype(bool) for name, mask in file.get("removed", {}).items()},
            outliers={tensor: mask[()].astype(bool) for tensor, mask in file.get("outliers", {}).items()},
            copies=json.loads(file["copies"][()]) if "copies" in file else {},
        )
        digests = tuple(digest.decode() for digest in file["shard_sha256"])
        traffic = {name: group["traffic"][()] for name, group in file["mixings"].items()}
        check_counts(plan.workers, digests, traffic)
        ends = read_ends(content)
        longest = int(file.attrs.get("longest", 0))
        check_tokens(longest, ends)
        return StoredPlan(
            directory,
            plan,
            digests,
            json.loads(file["provenance"][()]),
            traffic,
            ends,
            longest,
            read_rules(file["texts"][()]) if "texts" in file else NO_RULES,
        )


def refuse_file(path: Path) -> None:
    """Refuse a single file of shards, which stand for themselves only together.

    Raises:
        UserError: names their directory.
    """
    if path.suffix == ".h5" and path.is_file() and path in plan_files(path.parent):
        raise UserError(f"{path}: expected a directory of shards, found a file of one; name {path.parent}")


def missing_shards(stored: StoredPlan) -> list[str]:
    """Names of the files of workers that are not there."""
    paths = (shard_path(stored.directory, worker) for worker in range(stored.plan.workers))
    return [path.name for path in paths if not path.exists()]


def hold_tokens(directory: Path) -> bool:
    """Whether shards are those of a network of tokens, by the first line of their plan."""
    try:
        with open(directory / PLAN_FILE, "rb") as file:
            return version_of(file, FORMAT) in _OF_TOKENS
    except OSError:
        return False


def check_model(stored: StoredPlan, network: Network, model: object, remedy: str) -> None:
    """Refuse a plan that was made from another model.

    Args:
        stored: the plan.
        network: as it was trained.
        model: what to call it.
        remedy: what to do.

    Raises:
        UserError: with both fingerprints.
    """
    expected, recorded = network.fingerprint(), str(stored.provenance.get("model_fingerprint"))
    if recorded != expected:
        raise UserError(
            f"{stored.directory}: expected shards of {model} (fingerprint {expected[:12]}), found those of "
            f"another one ({recorded[:12]}); {remedy}"
        )


def read_shard(stored: StoredPlan, worker: int) -> Shard:
    """Read one worker's shard; its large arrays are mapped, see ``mapped``.  The ends come from the plan.

    Raises:
        UserError: missing, corrupt, of another plan or of another format version.
    """
    path, recorded = shard_path(stored.directory, worker), stored.shard_sha256[worker]
    with _reading(path, recorded) as content:
        _check_belongs(content.file, path, stored, worker)
        if content.sha256 != recorded:
            raise ValueError(f"its SHA-256 is not the one recorded in {PLAN_FILE}")
        shard = _parse_shard(content, stored)
        check_shard(shard, stored.plan)
        return shard


def read_network(stored: StoredPlan) -> Network:
    """The whole restructured network, from the shards of all workers, with the ends of its model.

    Raises:
        UserError: see ``read_shard``.
    """
    return assemble(read_shard(stored, worker) for worker in range(stored.plan.workers))


def is_complete(stored: StoredPlan) -> bool:
    """Tell whether every shard of a plan is there, as it was written."""
    try:
        digests = [file_sha256(shard_path(stored.directory, worker)) for worker in range(stored.plan.workers)]
    except OSError:
        return False
    return tuple(digests) == stored.shard_sha256


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return sha256_of(file)


def _version_for(network: Network, plan: Plan) -> int:
    """The format version of the ``plan.h5`` of a network.

    Programs that know tokens, and no outliers, refuse these by the plan's identity.
    """
    if network.longest:
        everywhere = any(plan.is_everywhere(network, mixing) for mixing in network.mixings)
        return FORMAT_VERSION_EVERYWHERE if everywhere else FORMAT_VERSION_OF_TOKENS
    if plan.outliers:
        return FORMAT_VERSION_WITH_OUTLIERS
    return FORMAT_VERSION_WITH_ENDS if network.ends else FORMAT_VERSION


def _parse_shard(content: Content, stored: StoredPlan) -> Shard:
    file = content.file
    worker, graph = int(file.attrs["worker"]), read_graph(file["graph"])
    own = {name: neurons[()] for name, neurons in file["own"].items()}
    return Shard(
        worker=worker,
        workers=int(file.attrs["workers"]),
        plan_identity=file.attrs["plan_identity"],
        comm_dtype=file.attrs[COMM_DTYPE_ATTRIBUTE],
        graph=replace(graph, ends=stored.ends),
        own=own,
        blocks=StoredBlocks(content, graph, own, worker, stored.plan, stored.ends),
    )


@contextmanager
def _creating(path: Path, version_for: Callable[[h5py.File], int]) -> Iterator[h5py.File]:
    """A new file, made in memory and then written at once: HDF5 crashes when the disk is full.

    Args:
        path: of the file.
        version_for: the format version of the file, once it is complete.
    """
    memory = io.BytesIO()
    aligned = {"alignment_threshold": MAPPED_BYTES, "alignment_interval": ALIGNMENT}
    with h5py.File(memory, "w", userblock_size=HEADER_BYTES, **aligned) as file:
        yield file
        version = version_for(file)
    content = memory.getbuffer()
    content[:HEADER_BYTES] = header(FORMAT, version, hashlib.sha256(content[HEADER_BYTES:]).hexdigest())
    path.write_bytes(content)


@contextmanager
def _reading(path: Path, recorded: str | None = None) -> Iterator[Content]:
    """The open file, its bytes checked; whatever is wrong with it becomes one message.

    Everything goes through one descriptor: what is checked is what is used, and HDF5, which is given a
    Python file, asks for no locks, which not every file system has.

    Args:
        path: of the file.
        recorded: SHA-256 that the file should have; one that has it is not compared with its first line.
    """
    what = "file of a restructured network"
    with reading(path, what, "it is damaged or incomplete: restructure again, or copy it anew"):
        if not path.exists():
            raise UserError(
                f"{path}: expected a {what}, found none; check the directory given (every rank must see it), "
                "or restructure again"
            )
        with open(path, "rb") as raw:
            version = _check_header(raw, path)
            sha256 = sha256_of(raw)
            if sha256 != recorded:
                check_seal(raw, FORMAT, version)
            with h5py.File(raw, "r") as file:
                yield Content(file, sha256, MappedFile(raw))


def _check_header(raw: io.BufferedReader, path: Path) -> int:
    """The format version, once it is one that can be read."""
    version = version_of(raw, FORMAT)
    if version is None:
        size = os.fstat(raw.fileno()).st_size
        raise UserError(
            f"{path}: expected a file of {FORMAT}, found {size} bytes of something else; "
            "check the path, or restructure again if the file is damaged or incomplete"
        )
    if version not in _VERSIONS:
        raise UserError(
            f"{path}: expected format version {min(_VERSIONS)} to {max(_VERSIONS)}, found {version}; "
            f"restructure again with this version of {FORMAT}, or run the version that wrote it"
        )
    return version


def _check_belongs(file: h5py.File, path: Path, stored: StoredPlan, worker: int) -> None:
    if (file.attrs["worker"], file.attrs["plan_identity"]) != (worker, stored.plan.identity()):
        raise UserError(
            f"{path}: expected the shard of worker {worker} of the plan beside it, "
            f"found that of worker {file.attrs['worker']} of the same or another plan; "
            "restructure again, or copy all files of one plan together"
        )


def _check_replaceable(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise UserError(
            f"{directory}: expected a directory to write to, found a file; choose another directory"
        )
    others = {*directory.iterdir()} - {*plan_files(directory)} if directory.is_dir() else set()
    if others:
        raise UserError(
            f"{directory}: expected an empty directory, or an earlier plan alone, which is replaced, found "
            f"{min(others).name}; move it away, or choose another directory"
        )


@contextmanager
def _refusing(directory: Path) -> Iterator[None]:
    """Turn what goes wrong while ``directory`` is written into a message."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{directory}: {refusal(error, directory.parent)}") from None
