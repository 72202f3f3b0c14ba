"""The faults of the campaign: which errors each call can return, and how one is drawn from the calls of an undisturbed run."""
import dataclasses
import errno

SHORT = "short"  # transfers half of the bytes
ERRORS = {
    "open": ("EIO", "ESTALE", "EACCES", "EMFILE", "ENFILE", "EINTR"),
    "create": ("EIO", "ENOSPC", "EDQUOT", "ESTALE", "EACCES", "EROFS", "EMFILE", "EINTR"),
    "read": ("EIO", "ESTALE", "EINTR", SHORT),
    "write": ("EIO", "ENOSPC", "EDQUOT", "ESTALE", "EINTR", SHORT),
    "fsync": ("EIO", "ENOSPC", "EDQUOT", "ESTALE", "EINTR"),
    "close": ("EIO", "ENOSPC", "EDQUOT", "EINTR"),
    "truncate": ("EIO", "ENOSPC", "EDQUOT", "ESTALE", "EINTR"),
    "stat": ("EIO", "ESTALE", "EACCES"),
    "rename": ("EIO", "ENOSPC", "EDQUOT", "ESTALE", "EACCES", "EBUSY"),
    "link": ("EIO", "ENOSPC", "EDQUOT", "ESTALE", "EACCES", "EMLINK", "EPERM"),
    "unlink": ("EIO", "ESTALE", "EACCES", "EBUSY", "EROFS"),
    "mkdir": ("EIO", "ENOSPC", "EDQUOT", "ESTALE", "EACCES", "EROFS", "EMLINK"),
    "rmdir": ("EIO", "ESTALE", "EACCES", "EBUSY", "ENOTEMPTY"),
    "opendir": ("EIO", "ESTALE", "EACCES", "EMFILE"),
    "readdir": ("EIO", "ESTALE"),
    "mmap": ("ENOMEM", "EACCES", "ENODEV"),
    "lock": ("EIO", "ESTALE", "ENOLCK", "EINTR"),
}
LASTING = ("EIO", "ESTALE", "ENOSPC", "EDQUOT")  # can affect all calls from one on: a lost server, a full disk


@dataclasses.dataclass
class Fault:
    """The variables of shim.h. kind is a kind of path, error a name of errno or SHORT."""
    call: str
    kind: str
    at: int
    error: str
    scope: str
    rank: int

    def environment(self, shim, folder, log):
        return {"LD_PRELOAD": shim, "SHIM_FOLDER": folder, "SHIM_LOG": log, "SHIM_CALL": self.call, "SHIM_KIND": self.kind,
                "SHIM_AT": str(self.at), "SHIM_ERRNO": str(self.number()), "SHIM_SCOPE": self.scope, "SHIM_RANK": str(self.rank)}

    def number(self):
        return 0 if self.error == SHORT else getattr(errno, self.error)


def draw(moments, calls):
    """Draws a fault. calls: for each rank {call: {kind of path: number of calls}}. Every call is as likely as another, then
    every kind of path; first and last calls are likelier than those between."""
    rank = moments.randrange(len(calls))
    call = moments.choice(sorted(calls[rank]))
    kind = moments.choice(sorted(calls[rank][call]))
    count = calls[rank][call][kind]
    at = moments.choice((1, count, 1 + moments.randrange(count)))
    error = moments.choice(ERRORS[call])
    scopes = ["once"] * 3
    if error != "EINTR":  # a call that is interrupted each time must be repeated forever
        scopes.append("kind")
    if error in LASTING:
        scopes.append("all")
    return Fault(call, kind, at, error, moments.choice(scopes), rank)
