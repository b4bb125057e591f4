"""Array in, array out: restructure a trained network for four workers and run it in this process.

The network is a multilayer perceptron whose weights are in an ``.npz`` file, as any framework can write
it: ``W0``, ``b0``, ``W1``, ``b1``, and so on, with ReLU in between.  Calibration data are samples like
those that the network will see; labels are not needed.  Budget 0.1 allows a tenth of the values that the
workers would exchange if nothing were pruned.

    python examples/arrays.py
"""

import numpy as np

import repurpose_hpc as rp
from repurpose_hpc import bundled

# The network and the images that come with the package: Fashion-MNIST, ten classes.
network = rp.load_model(bundled.MODEL)
calibration = np.load(bundled.CALIBRATION)["x"]
test = np.load(bundled.TEST)

cut = rp.restructure_network(network, rp.Samples.of(calibration), workers=4, comm_budget=0.1)
print(f"{cut.report['values_sent']} of {cut.report['dense_values']} values travel for every sample")

# One process hosts all four workers.  The outputs are shaped as the model's: (samples, classes).
y = rp.Session(cut).run(test["x"])
accuracy = (y.argmax(axis=1) == test["y"]).mean()
print(f"outputs {y.shape}, accuracy {accuracy:.4f}")
