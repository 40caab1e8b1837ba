"""Makes TUF repositories with the reference implementation: good ones, and one per attack.

usage: repositories.py FOLDER

Each case is a folder: `root.json` is what the client trusts from the start, `case.json` lists steps, and
`N/` is what the server holds at step N. A step says what the client does and how it must end: with
which versions on disk, whatever happened.
"""

import copy
import json
import pathlib
import sys
from datetime import datetime, timedelta, timezone

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from urllib.parse import quote

NOW = datetime.now(timezone.utc).replace(microsecond=0)
LATER = NOW + timedelta(days=30)
PAST = NOW - timedelta(days=1)
TOP = ["root", "timestamp", "snapshot", "targets"]


class Repository:
    """A repository in memory; `publish` writes what a server would hold."""

    def __init__(self, make_key=CryptoSigner.generate_ed25519, consistent=True):
        self.make_key = make_key
        self.signers = {role: [make_key()] for role in TOP}
        self.md = {
            "root": Metadata(Root(expires=LATER, consistent_snapshot=consistent)),
            "timestamp": Metadata(Timestamp(expires=LATER)),
            "snapshot": Metadata(Snapshot(expires=LATER)),
            "targets": Metadata(Targets(expires=LATER)),
        }
        for role in TOP:
            self.root.add_key(self.signers[role][0].public_key, role)
        self.roots = {}
        self.files = {}
        self.contents = {}
        self.sign("root")
        self.release()

    @property
    def root(self):
        return self.md["root"].signed

    def __getattr__(self, role):
        return self.md[role].signed

    def sign(self, role, signers=None):
        md = self.md[role]
        md.signatures.clear()
        for signer in self.signers[role] if signers is None else signers:
            md.sign(signer, append=True)
        self.put(role, md.to_bytes())

    def put(self, role, data):
        version = self.md[role].signed.version
        if role == "root":
            self.roots[version] = data
        else:
            self.files[role] = (version, data)

    def next_root(self, signers=None):
        self.root.version += 1
        self.sign("root", signers)

    def rotate(self, role):
        """The new root is signed by old and new keys of root."""
        old = list(self.signers["root"])
        for signer in self.signers[role]:
            self.root.revoke_key(signer.public_key.keyid, role)
        self.signers[role] = [self.make_key()]
        self.root.add_key(self.signers[role][0].public_key, role)
        self.next_root(old + [s for s in self.signers["root"] if s not in old])

    def pin(self, role):
        """Length and hashes of what is signed for the role."""
        version, data = self.files[role]
        return MetaFile.from_data(version, data, ["sha256"])

    def release(self, bump=True):
        """Signs targets and its delegates, then pins them by snapshot and timestamp."""
        for role in self.md:
            if role not in ("root", "timestamp", "snapshot"):
                self.sign(role)
                self.snapshot.meta[f"{role}.json"] = self.pin(role)
        self.sign("snapshot")
        self.timestamp.snapshot_meta = self.pin("snapshot")
        self.sign("timestamp")

    def bump(self, *roles):
        for role in roles or ("targets", "snapshot", "timestamp"):
            self.md[role].signed.version += 1
        self.release()

    def add_target(self, role, name, content=b"content"):
        self.md[role].signed.targets[name] = TargetFile.from_data(name, content, ["sha256"])
        self.contents[name] = content

    def delegate(self, delegator, name, paths=("*",), terminating=False, prefixes=None, signer=None):
        parent = self.md[delegator].signed
        if parent.delegations is None:
            parent.delegations = Delegations({}, roles={})
        paths = None if prefixes else list(paths)
        parent.delegations.roles[name] = DelegatedRole(name, [], 1, terminating, paths, prefixes)
        signer = signer or self.make_key()
        parent.add_key(signer.public_key, name)
        if name not in self.md:
            self.md[name] = Metadata(Targets(expires=LATER))
            self.signers[name] = [signer]
        else:
            self.signers[name].append(signer)

    def publish(self, folder):
        metadata = folder / "metadata"
        metadata.mkdir(parents=True)
        consistent = self.root.consistent_snapshot
        for version, data in self.roots.items():
            (metadata / f"{version}.root.json").write_bytes(data)
        for role, (version, data) in self.files.items():
            prefix = f"{version}." if consistent and role != "timestamp" else ""
            (metadata / f"{prefix}{quote(role, '')}.json").write_bytes(data)
        for role, md in self.md.items():
            for name, target in getattr(md.signed, "targets", {}).items():
                place, _, base = name.rpartition("/")
                hash_ = next(iter(target.hashes.values()))
                base = f"{hash_}.{base}" if consistent else base
                file = folder / "targets" / place / base
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(self.contents[name])


class Case:
    """Steps against one repository, of which each is a picture of the server at that time."""

    def __init__(self, name, repository, out):
        self.repository, self.folder, self.steps = repository, out / name, []
        self.folder.mkdir(parents=True)
        (self.folder / "root.json").write_bytes(repository.roots[1])

    def step(self, ok, download=None, **trusted):
        """`trusted`: versions that the client must hold afterwards; 0 means no file."""
        number = len(self.steps)
        self.repository.publish(self.folder / str(number))
        self.steps.append({"ok": ok, "download": download, "trusted": trusted})
        (self.folder / "case.json").write_text(json.dumps(self.steps))
        return self


def good(out):
    # Members that the specification doesn't know stand in the file, and outside the key's id.
    repo = Repository()
    it = Case("good_members_outside_a_key_id", repo, out).step(True, root=1)
    repo.root.unrecognized_fields["custom"] = "value"
    for number, extra in enumerate([{"owner": {"a": 1}}, {"keyid_hash_algorithms": ["md5"]}]):
        keyid = repo.root.roles[TOP[number]].keyids[0]
        repo.root.keys[keyid].unrecognized_fields.update(extra)
        repo.next_root()
        it.step(True, root=2 + number)

    # A root that raises the threshold is taken; the snapshot that lacks signatures now stays and serves nobody.
    repo = Repository()
    it = Case("good_threshold_that_is_met_later", repo, out).step(True, snapshot=1)
    repo.signers["snapshot"].append(repo.make_key())
    repo.root.add_key(repo.signers["snapshot"][1].public_key, "snapshot")
    repo.root.roles["snapshot"].threshold = 2
    repo.next_root()
    it.step(False, root=2, snapshot=1)
    repo.bump("snapshot", "timestamp")
    it.step(True, root=2, snapshot=2)

    kinds = {
        "ed25519": CryptoSigner.generate_ed25519,
        "ecdsa_p256": CryptoSigner.generate_ecdsa,
        "rsa_pss": CryptoSigner.generate_rsa,
    }
    for kind, make in kinds.items():
        for consistent in (True, False):
            repo = Repository(make, consistent)
            name = f"good_{kind}_{'consistent' if consistent else 'plain'}"
            case = Case(name, repo, out).step(True, root=1, timestamp=1, snapshot=1, targets=1)
            repo.add_target("targets", "folder/file")
            repo.bump()
            case.step(True, "folder/file", timestamp=2, snapshot=2, targets=2)
            case.step(False, "folder/other")

    repo = Repository()
    case = Case("good_every_key_rotates", repo, out).step(True)
    for role in TOP:
        repo.rotate(role)
        repo.bump("timestamp")
    case.step(True, root=5, timestamp=5)

    repo = Repository()
    repo.timestamp.version = repo.snapshot.version = 1_000_000
    repo.release()
    case = Case("good_recovery_after_fast_forward", repo, out).step(True, timestamp=1_000_000)
    repo.timestamp.version = repo.snapshot.version = 2
    repo.rotate("timestamp")
    repo.rotate("snapshot")
    repo.release()
    case.step(True, root=3, timestamp=2, snapshot=2)

    for bits in (1, 5, 8):
        repo = Repository()
        bins = SuccinctRoles([], 1, bits, "bin")
        repo.targets.delegations = Delegations({}, None, bins)
        signer = CryptoSigner.generate_ed25519()
        repo.targets.add_key(signer.public_key)
        for name in bins.get_roles():
            repo.md[name] = Metadata(Targets(expires=LATER))
            repo.signers[name] = [signer]
        repo.add_target(bins.get_role_for_target("a/file"), "a/file")
        repo.release()
        Case(f"good_succinct_bins_{bits}", repo, out).step(True, "a/file").step(False, "a/none")

    repo = Repository()
    repo.delegate("targets", "../escape", signer=CryptoSigner.generate_ed25519())
    repo.add_target("../escape", "file")
    repo.release()
    Case("good_role_name_stays_in_the_folder", repo, out).step(True, "file")

    repo = Repository()
    repo.delegate("targets", "by-hash", prefixes=["0123456789abcdef"[i] for i in range(16)])
    repo.add_target("by-hash", "file")
    repo.release()
    Case("good_hash_prefixes", repo, out).step(True, "file")


def attacks(out):
    def case(name, repository):
        return Case(name, repository, out).step(True, root=1, timestamp=1, snapshot=1, targets=1)

    for role in TOP:
        repo = Repository()
        it = case(f"attack_unsigned_{role}", repo)
        repo.signers[role] = [CryptoSigner.generate_ed25519()]
        if role == "root":
            repo.next_root()
        else:
            repo.bump()
        # Twice: what was refused must not be trusted at the next start.
        it.step(False, **{role: 1}).step(False, **{role: 1})

        repo = Repository()
        it = case(f"attack_expired_{role}", repo)
        repo.md[role].signed.expires = PAST
        if role == "root":
            # The newest root is kept all the same: it is what a way out of this will be signed by.
            repo.next_root()
            it.step(False, root=2, timestamp=1)
        else:
            repo.bump()
            it.step(False, **{role: 1})

    for first in (1, 3):
        repo = Repository()
        it = case(f"attack_root_version_{first}_after_1", repo)
        repo.root.version = first
        repo.sign("root")
        repo.roots[2] = repo.roots.pop(first)
        if first == 1:
            repo.roots[1] = repo.roots[2]
        it.step(False, root=1)

    repo = Repository()
    it = case("attack_root_without_old_threshold", repo)
    for signer in repo.signers["root"]:
        repo.root.revoke_key(signer.public_key.keyid, "root")
    repo.signers["root"] = [CryptoSigner.generate_ed25519()]
    repo.root.add_key(repo.signers["root"][0].public_key, "root")
    repo.next_root()
    it.step(False, root=1)

    repo = Repository()
    it = case("attack_root_without_new_threshold", repo)
    repo.root.roles["root"].threshold = 2
    repo.root.add_key(CryptoSigner.generate_ed25519().public_key, "root")
    repo.next_root()
    it.step(False, root=1)

    repo = Repository()
    it = case("attack_one_key_signs_twice", repo)
    data = repo.md["timestamp"]
    repo.root.roles["timestamp"].threshold = 2
    repo.root.add_key(CryptoSigner.generate_ed25519().public_key, "timestamp")
    repo.next_root()
    repo.bump()
    file = json.loads(repo.files["timestamp"][1])
    file["signatures"].append(copy.deepcopy(file["signatures"][0]))
    repo.put("timestamp", json.dumps(file).encode())
    it.step(False, root=2, timestamp=1)

    for threshold in (0, -1):
        repo = Repository()
        it = case(f"attack_threshold_{'zero' if threshold == 0 else 'negative'}", repo)
        repo.root.roles["timestamp"].threshold = 1
        repo.next_root()
        file = json.loads(repo.roots[2])
        file["signed"]["roles"]["timestamp"]["threshold"] = threshold
        md = Metadata.from_bytes(repo.roots[1])
        body = file["signed"]
        from securesystemslib.formats import encode_canonical

        signer = repo.signers["root"][0]
        file["signatures"] = [signer.sign(encode_canonical(body).encode()).to_dict()]
        repo.roots[2] = json.dumps(file).encode()
        it.step(False, root=1)

    for role, pinned in (("timestamp", None), ("snapshot", "timestamp"), ("targets", "snapshot")):
        repo = Repository()
        repo.bump()
        it = Case(f"attack_rollback_{role}", repo, out).step(True, **{role: 2})
        repo.md[role].signed.version = 1
        if role != "timestamp":
            repo.timestamp.version += 1
        if role == "targets":
            repo.snapshot.version += 1
        repo.release()
        it.step(False, **{role: 2})

    repo = Repository()
    repo.bump()
    it = Case("attack_refused_timestamp_blocks_nothing", repo, out).step(True, snapshot=2)
    repo.snapshot.version, repo.timestamp.version = 1, 3
    repo.release()
    it.step(False, timestamp=2, snapshot=2)
    repo.snapshot.version, repo.timestamp.version = 3, 4
    repo.release()
    it.step(True, timestamp=4, snapshot=3)

    repo = Repository()
    it = case("attack_mix_and_match", repo)
    repo.bump()
    kept = repo.files["targets"]
    repo.bump()
    repo.files["targets"] = (3, kept[1])
    it.step(False, snapshot=3, targets=1)

    repo = Repository()
    it = case("attack_endless_timestamp", repo)
    repo.bump()
    version, data = repo.files["timestamp"]
    repo.files["timestamp"] = (version, data + b" " * 20_000_000)
    it.step(False, timestamp=1)

    repo = Repository()
    it = case("attack_not_the_pinned_snapshot", repo)
    repo.bump()
    version, data = repo.files["snapshot"]
    repo.files["snapshot"] = (version, data + b" ")
    it.step(False, timestamp=2, snapshot=1)

    repo = Repository()
    repo.add_target("targets", "file")
    repo.bump()
    it = Case("attack_other_content", repo, out).step(True, targets=2)
    repo.contents["file"] = b"malice!"
    it.step(False, "file")
    repo.contents["file"] = b"content" * 1000
    it.step(False, "file")

    repo = Repository()
    it = case("attack_snapshot_forgets_a_role", repo)
    repo.delegate("targets", "a")
    repo.bump()
    it.step(True, snapshot=2)
    del repo.md["a"], repo.snapshot.meta["a.json"]
    repo.snapshot.version += 1
    repo.timestamp.version += 1
    repo.release()
    it.step(False, timestamp=3, snapshot=2)

    # Delegations.
    repo = Repository()
    repo.delegate("targets", "a", terminating=True)
    repo.delegate("targets", "b")
    repo.add_target("b", "file")
    repo.release()
    Case("attack_past_a_terminating_role", repo, out).step(False, "file")

    repo = Repository()
    repo.delegate("targets", "a")
    repo.delegate("a", "b")
    repo.delegate("b", "a", signer=repo.signers["a"][0])
    repo.release()
    Case("attack_cycle_of_roles", repo, out).step(False, "file")

    repo = Repository()
    repo.delegate("targets", "a", paths=["a/*"])
    repo.delegate("a", "b", paths=["*", "*/*"])
    repo.add_target("b", "b/file")
    repo.release()
    Case("attack_path_that_the_chain_does_not_cover", repo, out).step(False, "b/file")

    repo = Repository()
    repo.delegate("targets", "a")
    repo.add_target("a", "file")
    repo.a.expires = PAST
    repo.release()
    Case("attack_expired_delegate", repo, out).step(False, "file")

    repo = Repository()
    repo.delegate("targets", "a")
    repo.add_target("a", "file")
    repo.signers["a"] = [CryptoSigner.generate_ed25519()]
    repo.release()
    Case("attack_unsigned_delegate", repo, out).step(False, "file")

    # One role's file under two delegators: only the keys of whoever is asked count.
    repo = Repository()
    repo.delegate("targets", "a", paths=["x/*"])
    repo.delegate("targets", "b", paths=["y/*"])
    repo.delegate("a", "c", paths=["x/*"])
    mine = list(repo.signers["c"])
    repo.delegate("b", "c", paths=["y/*"])
    repo.signers["c"] = mine
    repo.add_target("c", "x/file")
    repo.add_target("c", "y/file")
    repo.release()
    it = Case("attack_cached_role_under_another_delegator", repo, out)
    it.step(True, "x/file").step(False, "y/file")

    repo = Repository()
    for number in range(40):
        repo.delegate("targets", f"r{number}")
    repo.add_target("r39", "file")
    repo.release()
    Case("attack_too_many_roles_to_ask", repo, out).step(False, "file")


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    good(folder)
    attacks(folder)
