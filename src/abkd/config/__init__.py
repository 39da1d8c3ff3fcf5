"""Strict recipes: YAML in, a checked `Recipe` out, or every fault at once.

`load_recipe` reads a file and overrides, `parse_recipe` a mapping; `Recipe.plan` gives the runs that
`abkd.study.run_images` makes. `shipped_recipes` names the recipes that come with abkd.
"""

from abkd.config._facts import image_facts
from abkd.config._faults import fault_of
from abkd.config._image import Compare, Data, Divergence, ImageRecipe, MethodSettings, Student, Teacher
from abkd.config._image_job import ImageJob
from abkd.config._lm import LmRecipe
from abkd.config._lm_job import LmJob
from abkd.config._load import load_recipe, parse_recipe
from abkd.config._recipe import Recipe
from abkd.config._shipped import recipes_folder, shipped_recipes

__all__ = [
    "Compare",
    "Data",
    "Divergence",
    "ImageJob",
    "ImageRecipe",
    "LmJob",
    "LmRecipe",
    "MethodSettings",
    "Recipe",
    "Student",
    "Teacher",
    "fault_of",
    "image_facts",
    "load_recipe",
    "parse_recipe",
    "recipes_folder",
    "shipped_recipes",
]
