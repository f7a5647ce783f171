BEGIN TRANSACTION;
PRAGMA application_id = 1128354637;
PRAGMA user_version = 1;
CREATE TABLE assertions (id INTEGER PRIMARY KEY,
  commit_id INTEGER NOT NULL REFERENCES commits(id), key_id INTEGER NOT NULL REFERENCES keys(id),
  value TEXT NOT NULL, norm TEXT NOT NULL, valid_from TEXT NOT NULL, start INTEGER NOT NULL, valid_until TEXT, until INTEGER,
  slot INTEGER, parent_slot INTEGER, outcome TEXT NOT NULL, source TEXT, CHECK (until IS NULL OR until > start));
INSERT INTO "assertions" VALUES(1,1,1,'8 m','8 m','2010',733773,NULL,NULL,0,NULL,'new',NULL);
INSERT INTO "assertions" VALUES(2,1,1,'9 m','9 m','2015',735599,NULL,NULL,1,0,'contradiction',NULL);
INSERT INTO "assertions" VALUES(3,1,2,'red','red','2018',736695,NULL,NULL,NULL,NULL,'new',NULL);
INSERT INTO "assertions" VALUES(4,1,2,'green','green','2018',736695,'2020',737425,2,NULL,'coexists',NULL);
INSERT INTO "assertions" VALUES(5,2,1,'8 metres','8 metres','2012',734503,NULL,NULL,3,0,'late',NULL);
CREATE TABLE commits (id INTEGER PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('assert', 'retract', 'undo')),
  undoes INTEGER REFERENCES commits(id), bank TEXT, source TEXT, recorded_at TEXT NOT NULL DEFAULT (datetime('now')));
INSERT INTO "commits" VALUES(1,'assert',NULL,'sha256:ab','period 2018','2026-11-24 05:57:02');
INSERT INTO "commits" VALUES(2,'assert',NULL,NULL,NULL,'2026-11-24 05:57:02');
INSERT INTO "commits" VALUES(3,'retract',NULL,NULL,NULL,'2026-11-24 05:57:02');
INSERT INTO "commits" VALUES(4,'undo',3,NULL,NULL,'2026-11-24 05:57:02');
INSERT INTO "commits" VALUES(5,'undo',4,NULL,NULL,'2026-11-24 05:57:02');
CREATE TABLE keys (id INTEGER PRIMARY KEY, subject TEXT NOT NULL, relation TEXT NOT NULL,
  subject_text TEXT NOT NULL, relation_text TEXT NOT NULL, UNIQUE (subject, relation));
INSERT INTO "keys" VALUES(1,'port lumina','depth','Port Lumina','depth');
INSERT INTO "keys" VALUES(2,'gale rock','light','Gale Rock','light');
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "meta" VALUES('names','[]');
INSERT INTO "meta" VALUES('multi','["light"]');
CREATE TABLE retractions (commit_id INTEGER NOT NULL REFERENCES commits(id),
  assertion_id INTEGER NOT NULL REFERENCES assertions(id));
INSERT INTO "retractions" VALUES(3,2);
CREATE INDEX timeline ON assertions (key_id, start);
CREATE INDEX starts ON assertions (start);
CREATE TRIGGER meta_UPDATE BEFORE UPDATE ON meta BEGIN SELECT RAISE(ABORT, 'the registry is append-only'); END;
CREATE TRIGGER meta_DELETE BEFORE DELETE ON meta BEGIN SELECT RAISE(ABORT, 'the registry is append-only'); END;
CREATE TRIGGER commits_UPDATE BEFORE UPDATE ON commits BEGIN SELECT RAISE(ABORT, 'the registry is append-only'); END;
CREATE TRIGGER commits_DELETE BEFORE DELETE ON commits BEGIN SELECT RAISE(ABORT, 'the registry is append-only'); END;
CREATE TRIGGER keys_UPDATE BEFORE UPDATE ON keys BEGIN SELECT RAISE(ABORT, 'the registry is append-only'); END;
CREATE TRIGGER keys_DELETE BEFORE DELETE ON keys BEGIN SELECT RAISE(ABORT, 'the registry is append-only'); END;
CREATE TRIGGER assertions_UPDATE BEFORE UPDATE ON assertions BEGIN SELECT RAISE(ABORT, 'the registry is append-only'); END;
CREATE TRIGGER assertions_DELETE BEFORE DELETE ON assertions BEGIN SELECT RAISE(ABORT, 'the registry is append-only'); END;
CREATE TRIGGER retractions_UPDATE BEFORE UPDATE ON retractions BEGIN SELECT RAISE(ABORT, 'the registry is append-only'); END;
CREATE TRIGGER retractions_DELETE BEFORE DELETE ON retractions BEGIN SELECT RAISE(ABORT, 'the registry is append-only'); END;
COMMIT;
