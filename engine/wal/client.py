"""`cellarman-wal`: the archive_command and the restore_command.

::

    cellarman-wal push PATH --server S [--config FILE]
    cellarman-wal push PATH --server S --over [USER@]HOST[:PORT] [--identity FILE]
        [--known-hosts FILE] [--program PATH] [--config FILE]
    cellarman-wal push - --name NAME --sha256 SUM --server S [--receipt] [--config FILE]
    cellarman-wal only-push --server S [--server S2 ...] [--config FILE]
    cellarman-wal get NAME PATH --server S [--config FILE] [--accept-gap] [--on-hole=absent]
        [--no-prefetch]

push exits 0 only when the file is durable in the archive, else 1. get exits 0 delivered, 1 proven end or absent history
file, 255 a hole, a hazard or any error. The shell script of that name asks with --guarded, which says 100 instead of 1,
and makes 255 of every code that is not ours, a broken Python's 1 above all. PostgreSQL starts one for every segment, so
this loads as little as it can.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.wal.settings import Settings

USAGE = """\
usage: cellarman-wal push PATH --server S [--config FILE]
       cellarman-wal push PATH --server S --over [USER@]HOST[:PORT] [--identity FILE]
           [--known-hosts FILE] [--program PATH] [--config FILE]
       cellarman-wal push - --name NAME --sha256 SUM --server S [--receipt] [--config FILE]
       cellarman-wal only-push --server S [--server S2 ...] [--config FILE]
       cellarman-wal get NAME PATH --server S [--config FILE] [--accept-gap] [--on-hole=absent]
           [--no-prefetch]

archive_command = 'cellarman-wal push %p --server S'
restore_command = 'cellarman-wal get %f "%p" --server S'

push: 0 only when durable, else 1. get: 0 delivered, 1 proven end of the archive or absent history file,
255 a hole, a hazard or any error: PostgreSQL then stops instead of promoting.
While segments are asked for in sequence, a helper makes the next ones ready beside the data directory, and ends with
the recovery; --no-prefetch goes without.

--over sends the file by ssh; --program and --config are then those of that host, --identity and
--known-hosts files of this one, in place of ssh's own. There, `push -` takes the file from standard
input; with nothing but ssh and sha256sum on the database host:
archive_command = 'ssh -T -o BatchMode=yes DESTINATION cellarman-wal push - --server S --name %f
    --sha256 $(sha256sum %p | cut -c1-64) < %p || exit 1'
only-push is for authorized_keys, so that a key can do nothing else:
restrict,command="cellarman-wal only-push --server S" ssh-ed25519 …
"""

_OPERANDS = {"push": 1, "get": 2, "only-push": 0}
_FAILURE = {"push": 1, "get": 255, "only-push": 1}
_SENDING = ("--over", "--identity", "--known-hosts", "--program")
_RECEIVING = ("--name", "--sha256", "--receipt")
_VALUED = ("--server", "--config", "--on-hole", *_SENDING, *_RECEIVING[:2])
_SWITCHES = ("--accept-gap", "--no-prefetch", "--guarded")
_ABSENT_GUARDED = 100


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code, or end the process with it when it is the process's own.

    Nothing that goes wrong in `get` is ever 1.
    """
    if argv is not None:
        return _guarded(argv)
    code = _guarded(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # nobody reads it
    os._exit(code)  # all is durable and said; the interpreter's own tidying would take two milliseconds more


def _guarded(words: list[str]) -> int:
    verb = words[0] if words else ""
    failure = _FAILURE.get(verb, 2)
    try:
        return _run(verb, words[1:])
    except KeyboardInterrupt:
        return failure
    except BaseException as error:  # uncaught, it would exit with 1, which PostgreSQL takes for the end of WAL
        _complain(error, words)
        return failure


def _run(verb: str, words: list[str]) -> int:
    if verb in ("--help", "-h", "help"):
        sys.stdout.write(USAGE)
        return 0
    if verb == "--version":
        from engine import __version__

        sys.stdout.write(f"cellarman-wal {__version__}\n")
        return 0
    operands, options = _parse(verb, words)
    if "--help" in options:
        sys.stdout.write(USAGE)
        return 0
    if verb == "only-push":
        return _only_push(options)
    if "--over" in options:
        return _send(operands[0], options)
    from engine.wal import settings

    server = settings.resolve(options["--server"], options.get("--config"))
    if "--name" in options:
        return _receive(server, options)
    return _push(server, operands[0]) if verb == "push" else _get(server, operands, options)


def _parse(verb: str, words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Split the command line into operands and options; raises UsageError."""
    if verb not in _OPERANDS:
        raise _usage(f"no such command: {verb or '(nothing)'}")
    operands: list[str] = []
    options: dict[str, str] = {}
    queue = iter(words)
    for word in queue:
        name, equals, value = word.partition("=")
        if name in _VALUED:
            given = value if equals else next(queue, "")
            if not given:
                raise _usage(f"{name} needs a value")
            several = verb == "only-push" and name == "--server" and name in options
            options[name] = f"{options[name]}\n{given}" if several else given
        elif word in ("--help", "-h"):
            return [], {"--help": ""}
        elif (word in _SWITCHES and verb == "get") or (word == "--receipt" and verb == "push"):
            options[word] = "yes"
        elif word == "--":
            operands.extend(queue)
        elif word.startswith("-") and not (word == "-" and verb == "push"):
            raise _usage(f"no such option: {word}")
        else:
            operands.append(word)
    if len(operands) != _OPERANDS[verb]:
        raise _usage(f"{verb} takes {_OPERANDS[verb]} argument(s), not {len(operands)}")
    if "--server" not in options:
        raise _usage("--server is missing")
    if options.get("--on-hole", "absent") != "absent" or (verb != "get" and "--on-hole" in options):
        raise _usage("--on-hole takes only the value absent, and only with get")
    _check_ends(verb, operands, options)
    return operands, options


def _check_ends(verb: str, operands: list[str], options: dict[str, str]) -> None:
    """Raise UsageError unless the options of one end of a push over SSH, or of neither, are there."""
    sending = [name for name in _SENDING if name in options]
    receiving = [name for name in _RECEIVING if name in options]
    if (sending or receiving) and verb != "push":
        raise _usage(f"{(sending + receiving)[0]} is only for push")
    if sending and "--over" not in options:
        raise _usage(f"{sending[0]} is only for push --over")
    if operands == ["-"] and (sending or not ("--name" in options and "--sha256" in options)):
        raise _usage("push - takes the file from standard input and needs --name and --sha256")
    if receiving and operands != ["-"]:
        raise _usage(f"{receiving[0]} is only for push -")


def _usage(why: str) -> BaseException:
    from engine.errors import UsageError

    return UsageError("this command line cannot be understood", why, "cellarman-wal --help")


def _push(server: Settings, path: str) -> int:
    """Archive one file durably; PostgreSQL's own file stays where it is, whatever happens."""
    from engine.wal.push import push

    push(server, path)
    return 0


def _receive(server: Settings, options: dict[str, str]) -> int:
    """Archive one file durably that comes by standard input."""
    from engine.wal.receipt import receive

    receive(server, options["--name"], options["--sha256"], sys.stdin.fileno())
    if "--receipt" in options:
        from engine.wal.sending import receipt

        sys.stdout.write(receipt(options["--name"], options["--sha256"]) + "\n")
    return 0


def _send(path: str, options: dict[str, str]) -> int:
    """Have one file made durable by another host."""
    from engine.wal.sending import send

    send(
        path,
        server=options["--server"],
        over=options["--over"],
        config=options.get("--config", ""),
        program=options.get("--program", ""),
        identity=options.get("--identity", ""),
        known_hosts=options.get("--known-hosts", ""),
    )
    return 0


def _only_push(options: dict[str, str]) -> int:
    """Do what an SSH client asks for when that is to push to one of these servers, whatever its key is trusted with."""
    servers = options["--server"].split("\n")
    asked = os.environ.get("SSH_ORIGINAL_COMMAND", "").split()
    if os.path.basename(asked[0] if asked else "").strip("'") != "cellarman-wal":
        asked = []
    if asked[1:] == ["--version"]:
        from engine import __version__

        sys.stdout.write("\n".join((f"cellarman-wal {__version__}", *servers, "")))
        return 0
    if asked[1:3] != ["push", "-"]:
        raise _not_allowed("a file is pushed with it, and nothing else is done", servers)
    operands, wanted = _parse("push", asked[2:])
    if operands != ["-"] or wanted["--server"] not in servers:
        raise _not_allowed(f"{wanted['--server']} was asked for", servers)
    from engine.wal import settings

    return _receive(settings.resolve(wanted["--server"], options.get("--config")), wanted)


def _not_allowed(why: str, servers: list[str]) -> BaseException:
    from engine.errors import Refused

    names = ", ".join(servers)
    fix = "let the key do so here, in ~/.ssh/authorized_keys: --server NAME for each server"
    return Refused(f"this key may only push WAL of {names}", why, fix)


def _get(server: Settings, operands: list[str], options: dict[str, str]) -> int:
    """Deliver one file: what a helper made ready ahead of replay, else from the archive itself."""
    from engine.wal import spool

    name, destination = operands
    system = _own_system()
    if system is None:
        from engine.repository import identity

        system = identity.system_id(server.layout)
    prepared = None if "--no-prefetch" in options else spool.of(server.layout, name, destination)
    if prepared is not None:
        prepared.start(name, system)
    if prepared is not None and prepared.take(name, destination, system):
        code = 0
    else:
        code = _fetch(server, name, destination, system, options)
    if prepared is not None and code == 0:
        prepared.tell(name)
    return _ABSENT_GUARDED if code == 1 and "--guarded" in options else code


def _fetch(server: Settings, name: str, destination: str, system: int | None, options: dict[str, str]) -> int:
    from engine.wal import fetch

    return fetch.get(
        server.layout,
        name,
        destination,
        system_id=system,
        accept_gap="--accept-gap" in options,
        absent_on_hole="--on-hole" in options,
        config_file=_named(options.get("--config", "")),
    )


def _own_system() -> int | None:
    """Return the system identifier of the cluster that asks: PostgreSQL runs restore_command in its data directory."""
    try:
        with open(os.path.join("global", "pg_control"), "rb", buffering=0) as file:
            return int.from_bytes(file.read(8), "little") or None
    except OSError:
        return None


def _complain(error: BaseException, words: list[str]) -> None:
    """Say on standard error what went wrong with this command line; PostgreSQL keeps it in its log."""
    lines = getattr(error, "lines", None)
    text = "\n".join(lines(_named(_config(words)))) if lines is not None else f"{type(error).__name__}: {error}"
    try:
        sys.stderr.write(f"cellarman-wal: {text}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass  # closed: the exit code has to tell


def _config(words: list[str]) -> str:
    """Return what a command line that may not have been understood gives as configuration file."""
    joined = next((word[len("--config=") :] for word in words if word.startswith("--config=")), "")
    return next((words[i + 1] for i, word in enumerate(words[:-1]) if word == "--config"), joined)


def _named(config: str) -> str:
    """Return the configuration file that was named to this, which commands have to name; "" when none was."""
    said = config or os.environ.get("CELLARMAN_CONFIG", "")
    try:
        return os.path.abspath(os.path.expanduser(said)) if said else ""
    except OSError:
        return said  # the working directory is gone


if __name__ == "__main__":
    sys.exit(main())
