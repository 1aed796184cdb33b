-- A memory that the first version of `store.py` wrote: its tables and triggers, and what was kept after evictions.
PRAGMA application_id = 1986622317;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE entry (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL, kind TEXT NOT NULL, problem TEXT,
       task TEXT, priority REAL NOT NULL, score REAL, same BLOB NOT NULL UNIQUE, bytes INTEGER NOT NULL,
       used INTEGER NOT NULL);
INSERT INTO "entry" VALUES(2,'check the sum','thought',NULL,NULL,9e999,NULL,X'3E8AE522B2CD43D0F755A7A7A7FAB2C7',13,2);
INSERT INTO "entry" VALUES(3,'halve it','step','8','t/1',2.0,0.5,X'DF96D8F1EAD66C606BD95BF898796760',9,3);
INSERT INTO "entry" VALUES(4,'try 3 * 8','thought',NULL,NULL,0.0,NULL,X'EA5B01AB6BF79902D06F308A044A2017',9,4);
CREATE TABLE shared (one INTEGER PRIMARY KEY CHECK (one = 1), clock INTEGER NOT NULL,
       entries INTEGER NOT NULL, bytes INTEGER NOT NULL, valued INTEGER NOT NULL,
       max_entries INTEGER NOT NULL, max_bytes INTEGER NOT NULL, max_valued INTEGER NOT NULL);
INSERT INTO "shared" VALUES(1,12,3,31,4,3,16777216,4);
CREATE TABLE value (id INTEGER PRIMARY KEY, identity TEXT NOT NULL, task TEXT NOT NULL, state TEXT NOT NULL,
       mean REAL NOT NULL, visits INTEGER NOT NULL, used INTEGER NOT NULL, UNIQUE (identity, task, state));
INSERT INTO "value" VALUES(3,'weights','t/1','[2,"x"]',0.25,1,12);
INSERT INTO "value" VALUES(4,'weights','t/1','[3,"x"]',7.91666666666666740681e-01,3,11);
INSERT INTO "value" VALUES(5,'weights','t/1','[4,"x"]',0.5,1,9);
INSERT INTO "value" VALUES(6,'weights','t/1','[5,"x"]',0.625,1,10);
CREATE INDEX entry_order ON entry (priority, used);
CREATE INDEX value_order ON value (used);
CREATE TRIGGER entry_comes AFTER INSERT ON entry BEGIN
       UPDATE shared SET entries = entries + 1, bytes = bytes + new.bytes; END;
CREATE TRIGGER entry_goes AFTER DELETE ON entry BEGIN
       UPDATE shared SET entries = entries - 1, bytes = bytes - old.bytes; END;
CREATE TRIGGER value_comes AFTER INSERT ON value BEGIN UPDATE shared SET valued = valued + 1; END;
CREATE TRIGGER value_goes AFTER DELETE ON value BEGIN UPDATE shared SET valued = valued - 1; END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('entry',4);
COMMIT;
