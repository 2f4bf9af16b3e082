"""A device that is reached over ssh.

`openssh` and `readiness` run here; `keeper`, `runner` and `conditions` are sent to the device, and run there without
dlmo on Python 3.9 or newer.
"""
