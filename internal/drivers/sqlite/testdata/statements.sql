-- create a table
CREATE TABLE "order" (
  "companyId" TEXT NOT NULL,
  "id" INTEGER NOT NULL,
  "it's ""odd""" TEXT,
  "createdDate" TEXT,
  "total" REAL,
  "taxed" INTEGER,
  "meta" TEXT,
  "tags" TEXT,
  "_eds_version" TEXT,
  PRIMARY KEY ("companyId", "id")
);

-- add a column
ALTER TABLE "order" ADD COLUMN "email" TEXT;

-- relax a column
ALTER TABLE "order" ALTER COLUMN "total" DROP NOT NULL;

-- widen a column to text
PRAGMA writable_schema=ON;
UPDATE sqlite_schema SET sql = eds_retype(sql, 'total', 'TEXT') WHERE type = 'table' AND name = 'order' COLLATE NOCASE;
CREATE TABLE "_eds_widen" (x);
DROP TABLE "_eds_widen";
PRAGMA writable_schema=RESET;
REINDEX "order";
UPDATE "order" SET "total" = CASE typeof("total") WHEN 'integer' THEN CAST("total" AS TEXT) ELSE eds_shortest(printf('%!.17g', "total")) END WHERE typeof("total") IN ('integer', 'real');

-- widen a column of a strict table to numbers
PRAGMA writable_schema=ON;
UPDATE sqlite_schema SET sql = eds_retype(sql, 'total', 'ANY') WHERE type = 'table' AND name = 'order' COLLATE NOCASE;
CREATE TABLE "_eds_widen" (x);
DROP TABLE "_eds_widen";
PRAGMA writable_schema=RESET;

-- upsert into order
INSERT INTO "order" AS "_here" ("companyId", "id", "it's ""odd""")
VALUES (?, ?, ?)
ON CONFLICT ("companyId", "id") DO UPDATE SET "it's ""odd""" = excluded."it's ""odd""";

-- delete from order
DELETE FROM "order" AS "_here"
WHERE "_here"."companyId" = ? COLLATE BINARY AND "_here"."id" = ? COLLATE BINARY;

-- merge a stage into order
INSERT INTO "order" AS "_here" ("companyId", "id", "it's ""odd""")
SELECT "companyId", "id", "it's ""odd""" FROM "_eds_load_order" WHERE true
ON CONFLICT ("companyId", "id") DO UPDATE SET "it's ""odd""" = excluded."it's ""odd""";

-- delete from order what a stage does not have
DELETE FROM "order" AS "_here"
WHERE NOT EXISTS (SELECT 1 FROM "_eds_load_order" AS "_there" WHERE "_here"."companyId" = "_there"."companyId" COLLATE BINARY AND "_here"."id" = "_there"."id" COLLATE BINARY);

-- delete of some rows of order what a stage does not have
DELETE FROM "order" AS "_here"
WHERE CAST("_here"."companyId" AS TEXT) COLLATE BINARY IN ('x', 'it''s \ odd') AND NOT EXISTS (SELECT 1 FROM "_eds_load_order" AS "_there" WHERE "_here"."companyId" = "_there"."companyId" COLLATE BINARY AND "_here"."id" = "_there"."id" COLLATE BINARY);
SELECT count(*) FROM "order" AS "_here"
WHERE CAST("_here"."companyId" AS TEXT) COLLATE BINARY IN ('x', 'it''s \ odd');

-- read order
SELECT "_here"."companyId", "_here"."id", "_here"."it's ""odd""" FROM "order" AS "_here";

-- upsert into link
INSERT INTO "link" AS "_here" ("a", "b")
VALUES (?, ?)
ON CONFLICT ("a", "b") DO NOTHING;

-- delete from link
DELETE FROM "link" AS "_here"
WHERE "_here"."a" = ? COLLATE BINARY AND "_here"."b" = ? COLLATE BINARY;

-- merge a stage into link
INSERT INTO "link" AS "_here" ("a", "b")
SELECT "a", "b" FROM "_eds_load_link" WHERE true
ON CONFLICT ("a", "b") DO NOTHING;

-- delete from link what a stage does not have
DELETE FROM "link" AS "_here"
WHERE NOT EXISTS (SELECT 1 FROM "_eds_load_link" AS "_there" WHERE "_here"."a" = "_there"."a" COLLATE BINARY AND "_here"."b" = "_there"."b" COLLATE BINARY);

-- delete of some rows of link what a stage does not have
DELETE FROM "link" AS "_here"
WHERE CAST("_here"."a" AS TEXT) COLLATE BINARY IN ('x', 'it''s \ odd') AND NOT EXISTS (SELECT 1 FROM "_eds_load_link" AS "_there" WHERE "_here"."a" = "_there"."a" COLLATE BINARY AND "_here"."b" = "_there"."b" COLLATE BINARY);
SELECT count(*) FROM "link" AS "_here"
WHERE CAST("_here"."a" AS TEXT) COLLATE BINARY IN ('x', 'it''s \ odd');

-- read link
SELECT "_here"."a", "_here"."b" FROM "link" AS "_here";

-- upsert into loose
UPDATE "loose" AS "_here" SET "id" = ?, "n" = ?
WHERE "_here"."id" = ? COLLATE BINARY;
INSERT INTO "loose" ("id", "n")
SELECT ?, ?
WHERE NOT EXISTS (SELECT 1 FROM "loose" AS "_here" WHERE "_here"."id" = ? COLLATE BINARY);

-- delete from loose
DELETE FROM "loose" AS "_here"
WHERE "_here"."id" = ? COLLATE BINARY;

-- merge a stage into loose
UPDATE "loose" AS "_here" SET "n" = "_there"."n"
FROM "_eds_load_loose" AS "_there"
WHERE "_here"."id" = "_there"."id" COLLATE BINARY;
INSERT INTO "loose" ("id", "n")
SELECT "id", "n" FROM "_eds_load_loose" AS "_there"
WHERE NOT EXISTS (SELECT 1 FROM "loose" AS "_here" WHERE "_here"."id" = "_there"."id" COLLATE BINARY);

-- delete from loose what a stage does not have
DELETE FROM "loose" AS "_here"
WHERE NOT EXISTS (SELECT 1 FROM "_eds_load_loose" AS "_there" WHERE "_here"."id" = "_there"."id" COLLATE BINARY);

-- delete of some rows of loose what a stage does not have
DELETE FROM "loose" AS "_here"
WHERE CAST("_here"."id" AS TEXT) COLLATE BINARY IN ('x', 'it''s \ odd') AND NOT EXISTS (SELECT 1 FROM "_eds_load_loose" AS "_there" WHERE "_here"."id" = "_there"."id" COLLATE BINARY);
SELECT count(*) FROM "loose" AS "_here"
WHERE CAST("_here"."id" AS TEXT) COLLATE BINARY IN ('x', 'it''s \ odd');

-- read loose
SELECT "_here"."id", "_here"."n" FROM "loose" AS "_here";

-- upsert into guarded
INSERT INTO "guarded" AS "_here" ("id", "n", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted")
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT ("id") DO UPDATE SET "n" = excluded."n", "_eds_op" = excluded."_eds_op", "_eds_version" = excluded."_eds_version", "_eds_synced_at" = excluded."_eds_synced_at", "_eds_deleted" = excluded."_eds_deleted"
WHERE ("_here"."_eds_version" IS NULL OR "_here"."_eds_version" <= excluded."_eds_version");

-- delete from guarded
UPDATE "guarded" AS "_here" SET "_eds_op" = ?, "_eds_version" = ?, "_eds_synced_at" = ?, "_eds_deleted" = ?
WHERE "_here"."id" = ? COLLATE BINARY AND ("_here"."_eds_version" IS NULL OR "_here"."_eds_version" <= ?);

-- merge a stage into guarded
INSERT INTO "guarded" AS "_here" ("id", "n", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted")
SELECT "id", "n", "_eds_op", "_eds_version", "_eds_synced_at", "_eds_deleted" FROM "_eds_load_guarded" WHERE true
ON CONFLICT ("id") DO UPDATE SET "n" = excluded."n", "_eds_op" = excluded."_eds_op", "_eds_version" = excluded."_eds_version", "_eds_synced_at" = excluded."_eds_synced_at", "_eds_deleted" = excluded."_eds_deleted"
WHERE ("_here"."_eds_version" IS NULL OR "_here"."_eds_version" <= excluded."_eds_version");

-- delete from guarded what a stage does not have
DELETE FROM "guarded" AS "_here"
WHERE NOT EXISTS (SELECT 1 FROM "_eds_load_guarded" AS "_there" WHERE "_here"."id" = "_there"."id" COLLATE BINARY);

-- delete of some rows of guarded what a stage does not have
DELETE FROM "guarded" AS "_here"
WHERE CAST("_here"."id" AS TEXT) COLLATE BINARY IN ('x', 'it''s \ odd') AND NOT EXISTS (SELECT 1 FROM "_eds_load_guarded" AS "_there" WHERE "_here"."id" = "_there"."id" COLLATE BINARY);
SELECT count(*) FROM "guarded" AS "_here"
WHERE CAST("_here"."id" AS TEXT) COLLATE BINARY IN ('x', 'it''s \ odd');

-- read guarded
SELECT "_here"."id", "_here"."n" FROM "guarded" AS "_here" WHERE "_here"."_eds_deleted" IS NOT 1;

-- upsert into newer
UPDATE "newer" AS "_here" SET "id" = ?, "n" = ?, "_eds_version" = ?
WHERE "_here"."id" = ? COLLATE BINARY AND ("_here"."_eds_version" IS NULL OR "_here"."_eds_version" <= ?);
INSERT INTO "newer" ("id", "n", "_eds_version")
SELECT ?, ?, ?
WHERE NOT EXISTS (SELECT 1 FROM "newer" AS "_here" WHERE "_here"."id" = ? COLLATE BINARY);

-- delete from newer
DELETE FROM "newer" AS "_here"
WHERE "_here"."id" = ? COLLATE BINARY AND ("_here"."_eds_version" IS NULL OR "_here"."_eds_version" <= ?);

-- merge a stage into newer
UPDATE "newer" AS "_here" SET "n" = "_there"."n", "_eds_version" = "_there"."_eds_version"
FROM "_eds_load_newer" AS "_there"
WHERE "_here"."id" = "_there"."id" COLLATE BINARY AND ("_here"."_eds_version" IS NULL OR "_here"."_eds_version" <= "_there"."_eds_version");
INSERT INTO "newer" ("id", "n", "_eds_version")
SELECT "id", "n", "_eds_version" FROM "_eds_load_newer" AS "_there"
WHERE NOT EXISTS (SELECT 1 FROM "newer" AS "_here" WHERE "_here"."id" = "_there"."id" COLLATE BINARY);

-- delete from newer what a stage does not have
DELETE FROM "newer" AS "_here"
WHERE NOT EXISTS (SELECT 1 FROM "_eds_load_newer" AS "_there" WHERE "_here"."id" = "_there"."id" COLLATE BINARY);

-- delete of some rows of newer what a stage does not have
DELETE FROM "newer" AS "_here"
WHERE CAST("_here"."id" AS TEXT) COLLATE BINARY IN ('x', 'it''s \ odd') AND NOT EXISTS (SELECT 1 FROM "_eds_load_newer" AS "_there" WHERE "_here"."id" = "_there"."id" COLLATE BINARY);
SELECT count(*) FROM "newer" AS "_here"
WHERE CAST("_here"."id" AS TEXT) COLLATE BINARY IN ('x', 'it''s \ odd');

-- read newer
SELECT "_here"."id", "_here"."n" FROM "newer" AS "_here";

-- write the first checkpoint
INSERT INTO "_eds_checkpoint" ("position", "stored", "stream", "consumer", "filter") VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- move a checkpoint
UPDATE "_eds_checkpoint" SET "position" = ?, "stored" = ? WHERE "stream" = ? AND "consumer" = ? AND "filter" = ? AND "position" = ? AND "stored" = ?;

-- move a checkpoint of this writer
UPDATE "_eds_checkpoint" SET "position" = ?, "stored" = ?, "seen" = ? WHERE "stream" = ? AND "consumer" = ? AND "filter" = ? AND "position" = ? AND "stored" = ? AND "epoch" = ? AND coalesce("generation", 0) = ?;

