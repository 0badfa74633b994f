"""The honest restore_command: deliver a WAL file, or say truly whether the archive ends here.

PostgreSQL takes 1..125 for "no such file": at the end of its WAL it then promotes. So 1 is said only for a proven end
and for a history file that does not exist; a hole, a hazard and every error are 255, which PostgreSQL answers with
FATAL (RestoreArchivedFile in src/backend/access/transam/xlogarchive.c). Light: the WAL client loads this.
"""

from __future__ import annotations

import os
import stat
import sys
import time

from engine.errors import Advice, CellarmanError
from engine.postgres import segment, timeline, walfile
from engine.repository.files import write_all
from engine.wal import codec, condemned, inspection
from engine.wal.refusal import Alien, Damaged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap

    from engine.postgres.timeline import Switch
    from engine.repository.layout import Layout

DELIVERED = 0
ABSENT = 1
REFUSED = 255

_TRIES = 3
_PAUSE = 0.3
_TIMELINE = "START TIMELINE"
_START = "START WAL LOCATION"
_SIGNALS = ("recovery.signal", "standby.signal")
_ARRIVAL_WAIT = 5.0
"""Seconds that a segment which somebody is still writing into incoming/ is waited for."""


class Hole(CellarmanError):
    """Replay must not end here: later WAL exists, or what is there cannot be used."""


class Hazard(CellarmanError):
    """PostgreSQL would go on with a dead branch of the history."""


def get(
    layout: Layout,
    name: str,
    destination: str,
    *,
    system_id: int | None = None,
    accept_gap: bool = False,
    absent_on_hole: bool = False,
    begins: bool | None = None,
    config_file: str = "",
) -> int:
    """Deliver WAL file `name` to `destination` and return 0, 1 or 255 with the reason on standard error.

    `begins` tells whether recovery begins in it; by default the backup_label of the data directory that this runs in
    does. `accept_gap` ends the replay at a hole or an unusable segment, and records that; `absent_on_hole` does so for
    a standby, which goes on to streaming. Neither covers a hazard or an error. `config_file` is named in commands.
    """
    opening = segment.kind_of(name) == segment.HISTORY and _is_recovering(destination)
    begins = _is_first(name) if begins is None else begins
    try:
        if _find(layout, name, system_id, destination, begins):
            return DELIVERED
        _prove_end(layout, name, system_id, begins)
        if opening and int(name[:8], 16) >= _followed():
            _check_lost_history(layout, name, system_id)
            if not os.path.exists("standby.signal"):  # a standby does not open, it goes on to stream
                _check_last_restored(layout, os.path.dirname(destination), system_id)
        return ABSENT
    except Hole as error:
        if accept_gap or absent_on_hole:
            return _end_at_hole(layout, name, error, begins, record=not absent_on_hole)
        _tell(error, config_file)
    except CellarmanError as error:
        if opening and int(name[:8], 16) < _followed():
            _say(f"{error.what}: {error.why}; recovery follows a newer timeline, and goes on without that file")
            return ABSENT
        _tell(error, config_file)
    except OSError as error:
        _say(f"cannot fetch {name}: {error}")
    return REFUSED


def _is_recovering(destination: str) -> bool:
    """Tell whether a PostgreSQL asks that follows timelines by what the archive has of them."""
    return os.path.dirname(destination) == "pg_wal" and any(os.path.exists(signal) for signal in _SIGNALS)


def _check_lost_history(layout: Layout, name: str, system_id: int | None) -> None:
    """Raise Hole when a timeline has WAL, and its history is missing: a recovery that comes from another one would not
    follow it, and call itself by its number.

    The one that a backup began on needs no history.
    """
    number = int(name[:8], 16)
    first = _next_present(layout, name[:8] + "0" * 16, system_id)
    if first and _began_on() not in (0, number) and _followed() < number:
        raise Hole(
            f"{name} is missing from the archive",
            f"{first} is there: recovery would not follow timeline {number}, and call itself by that number",
            "push it (pg_wal of the server or of a standby); to go on without that timeline, add --accept-gap to"
            " restore_command, or for a standby that streams --on-hole=absent",
        )


def _followed() -> int:
    """Return the timeline that the server which asks recovers to, 0 when that is not known: it has kept its history in
    its pg_wal, and reads no other (readTimeLineHistory, restoreTimeLineHistoryFiles in timeline.c)."""
    if not any(os.path.exists(signal) for signal in _SIGNALS):
        return 0
    return max((int(one[:8], 16) for one in _listed("pg_wal") if segment.kind_of(one) == segment.HISTORY), default=0)


def _began_on() -> int:
    """Return the timeline of the backup that this data directory was restored from, 0 when that is not known."""
    said = _labelled(_TIMELINE)
    return int(said) if said.isascii() and said.isdigit() else 0


def _is_first(name: str) -> bool:
    """Tell whether the backup that this data directory was restored from begins in a segment: PostgreSQL reads none
    before it."""
    return segment.kind_of(name) == segment.SEGMENT and _labelled(_START).endswith(f"(file {name})")


def _labelled(key: str) -> str:
    """Return what the label of the backup that this data directory was restored from says, "" when it does not."""
    for label in ("backup_label", "backup_label.old"):
        try:
            with open(label, encoding="utf-8", errors="replace") as file:
                lines = file.read(codec.SMALL_FILE).splitlines()
        except OSError:
            continue
        return next((line[len(key) + 1 :].strip() for line in lines if line.startswith(f"{key}:")), "")
    return ""


def _check_last_restored(layout: Layout, directory: str, system_id: int | None) -> None:
    """Raise Hole when a recovery that is about to end would end in damage.

    Before it promotes, PostgreSQL asks for the history of the timeline that it is about to begin
    (findNewestTimeLine in timeline.c); it stopped in the newest segment that it restored, which is still in its pg_wal.
    """
    from engine.wal import soundness

    last = soundness.last_restored(directory, system_id)
    if last is None:
        return
    name, plain = last
    try:
        _check_records(layout, name, plain, system_id, directory, begins=_is_first(name))
    except Damaged as error:
        raise Hole(
            f"recovery would end in {name}, which cannot be replayed to its end",
            error.why,
            Advice(error.fix, ", and restore again; to end recovery there, add --accept-gap to restore_command"),
        ) from None


def _end_at_hole(layout: Layout, name: str, hole: Hole, begins: bool, *, record: bool) -> int:
    """Say that nothing is here although more follows, as the operator asked, unless that would replay a dead branch."""
    try:
        if segment.kind_of(name) == segment.SEGMENT:
            _check_ancestors(layout, name, _segment_size(layout, name), begins)
    except (CellarmanError, OSError) as error:
        _say(f"cannot end recovery at {name}: {error}")
        return REFUSED
    if record:
        _say(f"{hole}; ACCEPTED (--accept-gap): recovery ends here and what follows is lost")
        _record(layout, name, hole)
    else:
        _say(f"{hole}; told to look elsewhere (--on-hole=absent)")
    return ABSENT


def _find(layout: Layout, name: str, system_id: int | None, destination: str, begins: bool) -> bool:
    """Deliver a WAL file, verified; False when it is in no place. Raises Hole when it is unusable. `begins`: what comes
    before it is nothing to the recovery.

    A file moves from the queues into the archive, so the archive is looked into once more at the end.
    """
    if segment.kind_of(name) == segment.FOREIGN:
        raise CellarmanError(f"{name!r} is not the name of a WAL file")
    archived = layout.wal(name)
    for path in (archived, os.path.join(layout.incoming, name), os.path.join(layout.streaming, name), archived):
        deadline = time.monotonic() + (_ARRIVAL_WAIT if path != archived else 0)
        while (stored := _stored(path)) is not None:
            try:
                known_bad = condemned.reason(layout, name) if path == archived else ""
                if known_bad and not (begins and _is_torn(known_bad)):
                    raise Damaged(f"{name} is bad", known_bad, _have_it_again(layout))
                _deliver(layout, stored, name, system_id, destination, begins)
                return True
            except (codec.Unreadable, Damaged, Alien) as error:
                if isinstance(error, Alien) or time.monotonic() >= deadline:
                    kind = Hole if segment.kind_of(name) == segment.SEGMENT else CellarmanError
                    raise kind(f"{name} cannot be used: {path}", error.why or error.what, error.fix) from None
                time.sleep(_PAUSE)
    return False


def _is_torn(problem: str) -> bool:
    """Tell whether all that is known against a segment is that it does not continue the one before it."""
    from engine.wal.contentcheck import CONTINUES

    return CONTINUES in problem


def _stored(path: str) -> bytes | mmap | None:
    """Read one file as it is stored, trying again after an error of the storage; None when it is not there."""
    for attempt in range(1, _TRIES + 1):
        try:
            return codec.map_stored(path)
        except FileNotFoundError:
            return None
        except OSError:
            if attempt == _TRIES:
                raise
            time.sleep(_PAUSE * attempt)
    raise AssertionError("the last try returns or raises")


def _deliver(
    layout: Layout, stored: bytes | mmap, name: str, system_id: int | None, destination: str, begins: bool
) -> None:
    """Write the file where PostgreSQL wants it; nothing is left there when that fails, or when it is not usable."""
    descriptor = os.open(destination, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        if segment.kind_of(name) == segment.SEGMENT:
            head, size = codec.pour(stored, descriptor)
            inspection.check_segment(name, head, size, system_id)
            room = os.path.dirname(destination) or "."
            _check_records(layout, name, _written(stored, descriptor, size), system_id, room, begins=begins)
        else:
            plain = codec.decompress(bytes(stored))
            inspection.check_content(name, plain, system_id)
            if segment.kind_of(name) == segment.HISTORY:
                _check_branch(layout, name, plain, system_id)
            write_all(descriptor, plain)
    except BaseException:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.unlink(destination)
        raise
    finally:
        os.close(descriptor)


def _check_branch(layout: Layout, name: str, plain: bytes, system_id: int | None) -> None:
    """Raise Damaged when the archive has WAL of a timeline from before its history says that it began."""
    size = _segment_size(layout, name)
    switches = timeline.parse_history(int(name[:8], 16), plain.decode("utf-8", "replace"))
    if size is None:
        return
    begin = segment.segment_name(int(name[:8], 16), timeline.first_segment(switches, size), size)
    for earlier in _segments(layout, name[:8]):
        if earlier < begin and not _is_elsewhere(layout, earlier, system_id):
            raise Damaged(
                f"{name} is not this timeline's",
                f"it says that the timeline began in {begin}, and {earlier} is there",
                f"put the server's own copy in its place: pg_wal/{name}; or if {earlier} is another server's, move that"
                " out of the archive",
            )


def _written(stored: bytes | mmap, descriptor: int, size: int) -> bytes:
    from engine.wal import soundness  # what is not a segment, or is not there, needs none of it

    return soundness.written(stored, descriptor, size)


def _check_records(
    layout: Layout, name: str, plain: bytes, system_id: int | None, room: str, *, begins: bool = False
) -> None:
    """Raise Damaged unless PostgreSQL can replay a segment to its end, or to the end of all WAL; `room` is a directory
    for what is large."""
    from engine.wal import soundness

    found = soundness.judge(layout, name, plain, system_id, room, begins=begins)
    why = found.problem
    if not why and found.short and found.header is not None:
        later = _next_present(layout, name, system_id)
        why = f"{found.short}, and {later} is there" if later else None
        if not later:
            try:
                _check_descendants(layout, name, found.header.segment_size)
            except Hole as hole:
                why = f"{found.short}, and {hole.why}"
    if why:
        raise Damaged(f"{name} is bad", why, _have_it_again(layout))


def _prove_end(layout: Layout, name: str, system_id: int | None, begins: bool) -> None:
    """Return when the archive truly holds nothing that `name` leads to; else raise Hole or Hazard. `begins`: recovery
    begins in it."""
    if not os.path.isdir(layout.wals):
        raise CellarmanError(f"the archive is not there: {layout.wals}", "", "see that its file system is mounted")
    if segment.kind_of(name) != segment.SEGMENT:
        os.listdir(layout.wals)  # an archive that cannot be read proves nothing
        return
    encoded = _encoded(layout, name)
    if encoded:
        raise Hole(
            f"{name} is not in the archive under its own name",
            f"{encoded} is there, which PostgreSQL does not ask for",
            _have_it_again(layout),
        )
    later = _next_present(layout, name, system_id)
    if later:
        raise _hole(name, f"{later} is there: the WAL between is missing")
    size = _segment_size(layout, name)
    if size is None:
        raise Hole(
            f"{name} is not in the archive, and no other segment is",
            f"nothing in {layout.wals}, {layout.incoming} or {layout.streaming}",
            "see that the archive's file system is mounted, and that --server names the right server",
        )
    _check_descendants(layout, name, size)
    _check_ancestors(layout, name, size, begins)


def _check_descendants(layout: Layout, name: str, size: int) -> None:
    """Raise Hole when a timeline that has WAL, or is followed, left this one in a later segment: then this one is
    needed."""
    own, number = segment.parse_segment(name, size)
    followed = _followed()
    for child, switches in sorted(_histories(layout, own + 1, followed)):
        switch = timeline.left_after(own, number, switches, size)
        if switch is not None and child == followed:
            raise _hole(name, f"timeline {child}, which is followed, goes on from it at {switch.lsn}")
        if switch is not None and _has_segments(layout, child):
            raise _hole(name, f"timeline {child} goes on from it at {switch.lsn}, and its WAL is there")


def _check_ancestors(layout: Layout, name: str, size: int | None, begins: bool) -> None:
    """Raise Hazard when PostgreSQL would fall back to an older timeline's copy of this timeline's first segment.

    It never falls back to one that is older than that of the segment before (XLogFileReadAnyTLI), unless recovery
    `begins` in this one.
    """
    if size is None:
        return
    own, number = segment.parse_segment(name, size)
    switches = timeline.history_of(own, dict(_histories(layout, own, _followed())))
    if not switches or timeline.first_segment(switches, size) != number:
        return
    oldest = 0 if begins else timeline.Lineage.of(own, switches).canonical(number - 1, size)
    for older in (switch for switch in switches if switch.timeline >= oldest):
        parent = segment.segment_name(older.timeline, number, size)
        if any(os.path.exists(path) for path in layout.places(parent)):
            raise Hazard(
                f"{name} is missing, and PostgreSQL would replay {parent} instead",
                f"timeline {own} left timeline {switches[-1].timeline} at {switches[-1].lsn}, within that segment: "
                "what follows there is a dead branch",
                f"find {name}, or recover on purpose with recovery_target_timeline = {older.timeline}",
            )


def _hole(name: str, why: str) -> Hole:
    return Hole(
        f"{name} is missing from the archive",
        why,
        "find it (pg_wal of the server or of a standby) and push it; to end recovery here and lose what follows, "
        "add --accept-gap to restore_command",
    )


def _encoded(layout: Layout, name: str) -> str:
    """Return the file that holds a segment under a name with a codec's suffix, "" when there is none."""
    paths = (layout.wal(name) + suffix for suffix in codec.SUFFIXES)
    return next((path for path in paths if os.path.exists(path)), "")


def _next_present(layout: Layout, name: str, system_id: int | None) -> str:
    """Return the first segment after `name` on its timeline that is of the same cluster, "" when there is none."""
    for later in sorted(set(_segments(layout, name[:8]))):
        if later > name and not _is_alien(layout, later, system_id):
            return later
    return ""


def _is_alien(layout: Layout, name: str, system_id: int | None) -> bool:
    """Tell whether a segment is surely another cluster's; what cannot be read counts as this one's."""
    if system_id is None:
        return False
    for path in layout.places(name):
        try:
            return bool(walfile.read_header(codec.read_head(path, walfile.HEADER_SIZE)).system_id != system_id)
        except FileNotFoundError:
            continue
        except (CellarmanError, OSError):
            return False
    return False


def _is_elsewhere(layout: Layout, name: str, system_id: int | None) -> bool:
    """Tell whether a segment is surely another cluster's, or another segment of it."""
    for path in layout.places(name):
        try:
            header = walfile.read_header(codec.read_head(path, walfile.HEADER_SIZE))
        except FileNotFoundError:
            continue
        except (CellarmanError, OSError):
            return False
        problem = walfile.check_segment(name, header, system_id=system_id, size=header.segment_size)
        return (problem or "").startswith(("alien", "misplaced"))
    return False


def _segments(layout: Layout, prefix: str) -> Iterator[str]:
    """Yield the segments in the archive and its queues whose names begin with a timeline's eight digits, those too of
    which the file has a codec's suffix."""
    for directory in (layout.incoming, layout.streaming, *_directories(layout, prefix)):
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            continue
        for name in names:
            bare = name[:24] if name[24:] in codec.SUFFIXES else name
            if bare.startswith(prefix) and segment.kind_of(bare) == segment.SEGMENT:
                yield bare


def _directories(layout: Layout, prefix: str) -> list[str]:
    return [
        os.path.join(layout.wals, name)
        for name in os.listdir(layout.wals)
        if len(name) == 16 and name.startswith(prefix) and segment.kind_of(name + "00000000") == segment.SEGMENT
    ]


def _has_segments(layout: Layout, number: int) -> bool:
    return next(_segments(layout, f"{number:08X}"), None) is not None


def _segment_size(layout: Layout, name: str) -> int | None:
    """Return the size that some segment's header states, this timeline's first; None when there is no segment."""
    for prefix in (name[:8], ""):
        for other in _segments(layout, prefix):
            for path in layout.places(other):
                try:
                    return int(walfile.read_header(codec.read_head(path, walfile.HEADER_SIZE)).segment_size)
                except (CellarmanError, OSError):
                    continue
    return None


def _histories(layout: Layout, first: int, followed: int) -> Iterator[tuple[int, tuple[Switch, ...]]]:
    """Yield the histories of timelines from `first` on; raises CellarmanError for one that cannot be read, since it
    proves nothing, unless a newer one is `followed`: then it is passed over."""
    names = {name for place in (layout.wals, layout.incoming, layout.streaming) for name in _listed(place)}
    for name in names:
        if segment.kind_of(name) != segment.HISTORY or (number := int(name[:8], 16)) < first:
            continue
        for path in layout.places(name):
            try:
                text = codec.read_segment(path, codec.SMALL_FILE).decode("utf-8", "replace")
                yield number, timeline.parse_history(number, text)
                break
            except FileNotFoundError:
                continue
            except (ValueError, codec.Unreadable) as error:
                if number < followed:
                    break
                raise CellarmanError(f"{path} cannot be read", str(error)) from None


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _record(layout: Layout, name: str, error: CellarmanError) -> None:
    """Write down that a gap was accepted; a repository that cannot be written is no reason to stop the salvage."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    try:
        os.makedirs(layout.own, exist_ok=True)
        path = os.path.join(layout.own, "accepted-gaps.log")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            write_all(descriptor, f"{stamp}\t{name}\t{os.getcwd()}\t{error}\n".encode("utf-8", "replace"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as failed:
        _say(f"the accepted gap could not be recorded: {failed}")


def _have_it_again(layout: Layout) -> Advice:
    from engine.commands import cellarman

    return Advice(cellarman("wal", "fetch-missing", layout.name))


def _tell(error: CellarmanError, config_file: str) -> None:
    _say("; ".join(" ".join(part.split()) for part in (error.what, error.why, error.now(config_file)) if part))


def _say(text: str) -> None:
    """Write one line to standard error, which PostgreSQL keeps in its log."""
    try:
        sys.stderr.write(f"cellarman-wal: {' '.join(text.split())}\n")
    except OSError:
        pass
