"""How fast this machine is: `guava-aug bench`, and what the programs in benchmarks/ share.

A room of its own: the core imports nothing of it, and it measures through the doors that users have.
"""
