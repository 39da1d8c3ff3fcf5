"""Image classifiers by name, with their preprocessing; saving and loading them.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from abkd.image.models._build import build_model, model_names
from abkd.image.models._classifier import ImageClassifier, as_classifier
from abkd.image.models._save import load_model, read_spec, save_model
from abkd.image.models._spec import ModelSpec
from abkd.image.models._weights import load_weights

__all__ = [
    "ImageClassifier",
    "ModelSpec",
    "as_classifier",
    "build_model",
    "load_model",
    "load_weights",
    "model_names",
    "read_spec",
    "save_model",
]
