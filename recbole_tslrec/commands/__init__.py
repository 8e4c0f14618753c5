"""The commands of ``python -m recbole_tslrec``, a file for each group of them.

Each file has ``add``, which declares its commands; a new command is one there and a line in
``__main__.py`` if its file is new.
"""
