"""How good the pictures are, in numbers: subjects of the generator, whose every view is known because we made it.

`metrics` what is measured, `crops` where, `mesh` the projected-texture baseline, `measure` the loop, `report` means,
floors and the JSON file. The core never imports this room; `guava-aug evaluate` is its door.
"""
