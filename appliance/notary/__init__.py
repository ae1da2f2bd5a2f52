"""The lab's notary: certificate authority, certificate log, transparency log and timestamp authority, on disk.

`lab.create` makes a lab, `lab.open_lab` opens one; a `Lab` certifies keys, registers runs, and turns a signature into a
bundle. Nothing is imported here: a run behind a wall asks over the channel, and needs `protocol` alone.
"""
