"""The lab's notary: certificate authority, certificate log, transparency log and timestamp authority, on disk.

`create` makes a lab, `open_lab` opens one; a `Lab` certifies keys, registers runs, and turns a signature into a bundle.
"""

from appliance.notary.lab import DEFAULT_NAME, Lab, create, open_lab

__all__ = ["DEFAULT_NAME", "Lab", "create", "open_lab"]
