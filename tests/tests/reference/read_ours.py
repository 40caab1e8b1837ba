"""Reads a repository of ours with the reference client, and says what it found.

usage: read_ours.py ROOT URL FOLDER TARGET...
"""

import os
import sys

from tuf.ngclient import Updater

root, url, folder, *targets = sys.argv[1:]
os.makedirs(folder, exist_ok=True)
with open(root, "rb") as file:
    updater = Updater(folder, url + "metadata/", folder, url + "targets/", bootstrap=file.read())
updater.refresh()
for target in targets:
    found = updater.get_targetinfo(target)
    print(target, "-" if found is None else f"{found.length} {found.hashes['sha256']}")
