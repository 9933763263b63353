"""The tables of the state, as numbered steps: each migrates from the version before it."""

from __future__ import annotations

from .database import Format

_TABLES = """
CREATE TABLE image (
    name          TEXT PRIMARY KEY,   -- kolla/nova-api:2025.1-debian
    registry      TEXT NOT NULL,      -- quay.io
    source        TEXT NOT NULL,      -- the digest of the tag at the source
    platforms     TEXT NOT NULL,      -- the platforms requested of an index, '' for all
    root          TEXT NOT NULL,      -- the manifest or index that is stored
    media_type    TEXT NOT NULL,
    size          INTEGER NOT NULL,
    mirrored      REAL NOT NULL,      -- POSIX time
    run           TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE blob (
    id            INTEGER PRIMARY KEY,
    digest        TEXT NOT NULL UNIQUE,
    media_type    TEXT NOT NULL,
    size          INTEGER NOT NULL,
    verified      REAL NOT NULL       -- POSIX time of the last verification, 0 if it is in doubt
);
CREATE TABLE content (                -- everything that a root needs, itself included
    root          TEXT NOT NULL,
    platforms     TEXT NOT NULL,
    blob          INTEGER NOT NULL REFERENCES blob(id),
    PRIMARY KEY (root, platforms, blob)
) WITHOUT ROWID;
"""

# Used by pruning.
_PRUNING = """
CREATE TABLE discovery (              -- the last discovery of each selection
    scope         TEXT PRIMARY KEY,   -- quay.io kolla/*:2025.1-debian
    complete      INTEGER NOT NULL,   -- whether it was complete
    authenticated INTEGER NOT NULL,   -- whether this one or an earlier one used an API token
    covered       INTEGER NOT NULL    -- number of mirrored images that the selection covers
) WITHOUT ROWID;
CREATE TABLE gone (                   -- images that complete discoveries did not find any more
    name          TEXT PRIMARY KEY,
    scope         TEXT NOT NULL,
    since         REAL NOT NULL,      -- POSIX time of the first of these discoveries
    seen          REAL NOT NULL       -- and of the last one
) WITHOUT ROWID;
CREATE TABLE orphan (                 -- blobs that no image needs
    digest        TEXT PRIMARY KEY,
    since         REAL NOT NULL       -- POSIX time when this was first noticed
) WITHOUT ROWID;
"""

# For the images that need a blob: looked up for each blob that is pushed or may be deleted.
_HOLDERS = "CREATE INDEX content_by_blob ON content (blob); CREATE INDEX image_by_root ON image (root, platforms);"

# Snapshots, and everything that belongs to an image. A `version` is what a name can stand for, so that a name of a
# snapshot takes a few bytes; an image that moves back is the same version again. A manifest that refers to another
# one is a version, too: it has contents of its own, and is needed as long as its subject is.
_SNAPSHOTS = """
ALTER TABLE image RENAME TO earlier_image;
ALTER TABLE content RENAME TO earlier_content;
CREATE TABLE version (
    id            INTEGER PRIMARY KEY,
    registry      TEXT NOT NULL,      -- quay.io
    source        TEXT NOT NULL,      -- the digest at the source, '' if it is that of the root
    platforms     TEXT NOT NULL,      -- the platforms requested of an index, '' for all
    root          TEXT NOT NULL,      -- the manifest or index that is stored
    media_type    TEXT NOT NULL,
    size          INTEGER NOT NULL
);
INSERT INTO version (registry, source, platforms, root, media_type, size)
    SELECT DISTINCT registry, CASE source WHEN root THEN '' ELSE source END, platforms, root, media_type, size
    FROM earlier_image;
CREATE INDEX version_by_root ON version (root);
CREATE TABLE image (                  -- the images that are complete: the set that the next snapshot has
    name          TEXT PRIMARY KEY,   -- kolla/nova-api:2025.1-debian
    version       INTEGER NOT NULL REFERENCES version(id),
    mirrored      REAL NOT NULL,      -- POSIX time
    run           TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO image SELECT name, version.id, mirrored, run FROM earlier_image AS earlier JOIN version
    ON version.root = earlier.root AND version.platforms = earlier.platforms AND version.registry = earlier.registry
    AND version.source = CASE earlier.source WHEN earlier.root THEN '' ELSE earlier.source END;
CREATE INDEX image_by_version ON image (version);
CREATE TABLE content (                -- everything that a version needs, its root included
    version       INTEGER NOT NULL REFERENCES version(id),
    blob          INTEGER NOT NULL REFERENCES blob(id),
    PRIMARY KEY (version, blob)
) WITHOUT ROWID;
INSERT INTO content SELECT version.id, blob FROM earlier_content JOIN version
    ON version.root = earlier_content.root AND version.platforms = earlier_content.platforms;
DROP TABLE earlier_content;
DROP TABLE earlier_image;
CREATE INDEX content_by_blob ON content (blob);
CREATE TABLE snapshot (               -- the set of images after a run
    number        INTEGER PRIMARY KEY,
    id            TEXT NOT NULL UNIQUE,
    created       REAL NOT NULL,      -- POSIX time
    run           TEXT NOT NULL,      -- '' if no run made it
    cause         TEXT NOT NULL,      -- sync, rollback, prune, ...
    label         TEXT NOT NULL,
    protected     INTEGER NOT NULL,
    complete      INTEGER NOT NULL,   -- whether everything selected was mirrored
    images        INTEGER NOT NULL,
    dropped       REAL                -- when retention gave up its content
);
CREATE INDEX snapshot_kept ON snapshot (number) WHERE dropped IS NULL;
CREATE TABLE name (                   -- every name that a snapshot has or had
    id            INTEGER PRIMARY KEY,
    name          TEXT NOT NULL UNIQUE
);
CREATE TABLE member (                 -- the images of the snapshots from `since` to before `until`
    name          INTEGER NOT NULL REFERENCES name(id),
    since         INTEGER NOT NULL,
    until         INTEGER NOT NULL,   -- 9007199254740991 while it lasts
    version       INTEGER NOT NULL REFERENCES version(id),
    PRIMARY KEY (name, since)
) WITHOUT ROWID;
CREATE INDEX member_by_end ON member (until);
CREATE INDEX member_by_version ON member (version);
CREATE TABLE publication (            -- the snapshot that readers see while the images go on; no row: the images
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    snapshot      INTEGER NOT NULL
);
CREATE TABLE hold (                   -- names that no sync moves and no pruning removes, present or not
    name          TEXT PRIMARY KEY,
    reason        TEXT NOT NULL,
    since         REAL NOT NULL       -- POSIX time
) WITHOUT ROWID;
CREATE TABLE referrer (               -- manifests that refer to another one: signatures, SBOMs, attestations
    subject       INTEGER NOT NULL REFERENCES blob(id),
    version       INTEGER NOT NULL REFERENCES version(id),
    repository    TEXT NOT NULL,      -- the repository that has it, without the registry
    tag           TEXT NOT NULL,      -- the digest tag that leads to it, '' for none
    artifact_type TEXT NOT NULL,
    found         REAL NOT NULL,      -- POSIX time
    missing       REAL,               -- when the source was first found to lack it
    PRIMARY KEY (subject, version, repository, tag)
) WITHOUT ROWID;
CREATE INDEX referrer_by_version ON referrer (version);
CREATE TABLE referrer_check (         -- when the source was asked for the referrers of a manifest
    registry      TEXT NOT NULL,
    repository    TEXT NOT NULL,
    subject       TEXT NOT NULL,
    checked       REAL NOT NULL,      -- POSIX time
    PRIMARY KEY (registry, repository, subject)
) WITHOUT ROWID;
CREATE TABLE verdict (                -- the judgement of a signature policy about an image
    name          TEXT NOT NULL,
    root          TEXT NOT NULL,      -- the digest that was judged
    policy        TEXT NOT NULL,      -- the fingerprint of the policy with its keys
    accepted      INTEGER NOT NULL,
    reason        TEXT NOT NULL,      -- the key or identity that signed it, or the reasons of a refusal
    judged        REAL NOT NULL,      -- POSIX time
    PRIMARY KEY (name, root, policy)
) WITHOUT ROWID;
"""

# What the source was asked for, and what a list of referrers shows of them.
_REFERRERS = """
ALTER TABLE referrer ADD COLUMN annotations TEXT NOT NULL DEFAULT '{}';  -- of the manifest, JSON
ALTER TABLE referrer ADD COLUMN seen REAL;                               -- when it was last found to be missing
ALTER TABLE referrer_check ADD COLUMN stamp INTEGER;                     -- of the repository, as it was listed then
ALTER TABLE referrer_check ADD COLUMN choice TEXT NOT NULL DEFAULT '';   -- the types that were wanted
"""

# For listings: without it every config would have to be read.
_DETAILS = """
CREATE TABLE detail (                 -- the description of a version, read from its manifests and its config
    version       INTEGER PRIMARY KEY REFERENCES version(id) ON DELETE CASCADE,
    platforms     TEXT NOT NULL,      -- linux/amd64,linux/arm64; '' if it has none
    created       TEXT NOT NULL       -- as the config has it, '' if it does not
);
"""

# For listings: it takes longer to compute than a listing to print.
_SIZES = """
CREATE TABLE version_size (           -- of one set of images, for as long as it is the same
    version       INTEGER PRIMARY KEY,
    names         INTEGER NOT NULL,   -- names in the set that stand for it
    size          INTEGER NOT NULL,   -- bytes of everything that it needs
    own_size      INTEGER NOT NULL    -- and of everything that no other name of the set needs
);
CREATE TABLE set_size (               -- of that set; no row if the sizes of its versions are unknown
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    blobs         INTEGER NOT NULL,
    bytes         INTEGER NOT NULL
);
"""

# Verdicts that came with an import say so.
_ORIGINS = """
ALTER TABLE verdict ADD COLUMN origin TEXT NOT NULL DEFAULT '';          -- its exports, '' if it was made here
"""

# The application ID reads "QMir".
FORMAT = Format(0x514D6972, (_TABLES, _PRUNING, _HOLDERS, _SNAPSHOTS, _REFERRERS, _DETAILS, _SIZES, _ORIGINS))
