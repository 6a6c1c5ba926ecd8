"""Draws the demo's pictures again: `python make_pictures.py`."""

from vispec.pair import make_sample
from vispec.pictures import PICTURES, picture_file

if __name__ == "__main__":
    for name, picture in PICTURES.items():
        make_sample(0, "test", picture.number).image.save(picture_file(name), optimize=True)
