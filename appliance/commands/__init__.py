"""The commands of `appliance`, one to a file; `appliance.cli` puts them together, and `options` is what they share.

A group of commands that belongs to one package lies there: `appliance.image.cli`, `appliance.notary.log_cli`.
"""
