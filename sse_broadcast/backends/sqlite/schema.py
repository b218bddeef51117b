"""The format of the file: its tables, how it is known, and what makes a newer one of an older one."""

from collections.abc import Callable, Mapping
from sqlite3 import Connection

APPLICATION_ID = 0x53534562
"""`SSEb`: what SQLite keeps in the head of a file to say whose it is."""

FORMAT = 1
"""The format that is written. A file of a newer one is refused, one of an older one migrated."""

MIN_SQLITE = (3, 37, 0)
"""The first SQLite with STRICT tables."""

BUSY_MILLISECONDS = 2000
"""How long to wait for a lock that a backup holds."""

AUTOCHECKPOINT = 1000
"""Pages of the log of changes (WAL) after which a commit moves them to the file: 4 MiB."""

# An event is stored once, and has a place in each channel that holds it: `holders` of them do.
# `private`, `final`, `ttl`, and of a channel `started`, `finished`, `finished_at`, `lifetime` and
# `last_words` are not written yet: the format has room for them, so that no migration follows at once.
TABLES = """
CREATE TABLE event (
  position INTEGER PRIMARY KEY,
  time REAL NOT NULL,
  size INTEGER NOT NULL,
  holders INTEGER NOT NULL,
  type TEXT,
  id TEXT,
  key TEXT,
  retry INTEGER,
  json INTEGER NOT NULL,
  private INTEGER NOT NULL DEFAULT 0,
  final INTEGER NOT NULL DEFAULT 0,
  ttl REAL,
  channels TEXT NOT NULL,
  data TEXT NOT NULL
) STRICT;
CREATE INDEX event_id ON event (id, position) WHERE id IS NOT NULL;
CREATE TABLE channel (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  publisher TEXT NOT NULL,
  count INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  newest INTEGER NOT NULL,
  lost INTEGER NOT NULL,
  started INTEGER NOT NULL DEFAULT 0,
  finished INTEGER,
  finished_at REAL,
  lifetime REAL,
  last_words TEXT
) STRICT;
CREATE TABLE place (
  channel INTEGER NOT NULL,
  position INTEGER NOT NULL,
  PRIMARY KEY (channel, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE term (
  epoch TEXT PRIMARY KEY,
  first INTEGER NOT NULL,
  last INTEGER,
  suspect INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE answer (
  scope BLOB PRIMARY KEY,
  publisher TEXT NOT NULL,
  digest BLOB NOT NULL,
  position INTEGER NOT NULL,
  count INTEGER NOT NULL,
  clients INTEGER NOT NULL,
  expires REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX answer_expires ON answer (expires);
CREATE INDEX answer_publisher ON answer (publisher, expires);
CREATE TABLE retired (
  channel INTEGER NOT NULL,
  id TEXT NOT NULL,
  position INTEGER NOT NULL,
  expires REAL NOT NULL,
  UNIQUE (channel, id)
) STRICT;
CREATE INDEX retired_id ON retired (id);
CREATE INDEX retired_expires ON retired (expires);
CREATE TABLE state (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  position INTEGER NOT NULL,
  commits INTEGER NOT NULL,
  events INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  time REAL NOT NULL,
  forgotten INTEGER NOT NULL,
  boot_id TEXT NOT NULL,
  durability TEXT NOT NULL,
  clean INTEGER NOT NULL
) STRICT;
INSERT INTO state VALUES (1, 0, 0, 0, 0, 0, 0, '', 'full', 1);
"""

MIGRATIONS: Mapping[int, Callable[[Connection], None]] = {}
"""By the format it comes from: what makes the next one of it, within a transaction that is begun."""


def create_tables(db: Connection) -> None:
    """Make the tables of an empty file.

    Not in the log of changes: its head says whose the file is, also if nothing was moved there before a
    crash.
    """
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("BEGIN IMMEDIATE")
    for statement in filter(str.strip, TABLES.split(";")):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {FORMAT}")
    db.execute("COMMIT")
    db.execute("PRAGMA journal_mode = WAL")


def placeholders(rows: int, columns: int) -> str:
    """Return the VALUES of so many rows: `(?,?),(?,?)`."""
    return ",".join([f"({','.join('?' * columns)})"] * rows)
