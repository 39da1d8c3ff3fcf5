"""Image data by name or path, split and augmented reproducibly.

Shapes: N images, C channels, H x W pixels, K classes.
"""

from abkd.image.data._dataset import ImageDataset
from abkd.image.data._load import ImageData, data_names, load_data
from abkd.image.data._split import base_and_new

__all__ = ["ImageData", "ImageDataset", "base_and_new", "data_names", "load_data"]
