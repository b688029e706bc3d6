PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "counter" VALUES('directive seq',3);
INSERT INTO "counter" VALUES('report',3);
CREATE TABLE desired (model TEXT PRIMARY KEY, seq INTEGER NOT NULL, slot TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "desired" VALUES('digits',3,'{"path":"digits/1.int8.bundle","sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","length_bytes":9,"release":1,"deployment":"de-1"}');
CREATE TABLE install (
    model TEXT PRIMARY KEY, state TEXT NOT NULL, seq INTEGER NOT NULL, slot TEXT NOT NULL,
    index_digest TEXT NOT NULL, attempt INTEGER NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "install" VALUES('digits','fetching',3,'{"path":"digits/1.int8.bundle","sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","length_bytes":9,"release":1,"deployment":"de-1"}','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',2,'device.no_space','full');
INSERT INTO "install" VALUES('faces','committed',2,'{"path":"faces/4.int8.bundle","sha256":"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc","length_bytes":9,"release":4,"deployment":"de-1"}','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',0,'','');
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, model TEXT NOT NULL, release INTEGER NOT NULL,
    digest TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL
);
INSERT INTO "outbox" VALUES(1,'refused','digits',1,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','bundle.untrusted','no');
CREATE TABLE quarantine (digest TEXT PRIMARY KEY, code TEXT NOT NULL, message TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "quarantine" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','bundle.golden_mismatch','no');
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE slot (
    model TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, length_bytes INTEGER NOT NULL,
    release INTEGER NOT NULL, committed INTEGER NOT NULL, PRIMARY KEY (model, name)
) WITHOUT ROWID;
INSERT INTO "slot" VALUES('faces','a','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',10,4,1);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('outbox',1);
COMMIT;
