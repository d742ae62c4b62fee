-- create a table
CREATE TABLE IF NOT EXISTS `every` (
	`companyId` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
	`id` BIGINT NOT NULL,
	`it's ``odd``` VARCHAR(255) CHARACTER SET utf8mb4,
	`createdDate` DATETIME(6),
	`total` BIGINT,
	`rate` DOUBLE,
	`taxed` TINYINT(1),
	`meta` LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
	`tags` LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
	`note` LONGTEXT CHARACTER SET utf8mb4,
	`_eds_version` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin,
	PRIMARY KEY (`companyId`, `id`)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 ROW_FORMAT=DYNAMIC;

-- add a column
ALTER TABLE `every` ADD COLUMN `email` LONGTEXT CHARACTER SET utf8mb4;

-- relax a column
ALTER TABLE `every` MODIFY COLUMN `total` bigint NULL DEFAULT 5 COMMENT 'is NOT NULL';

-- widen integers to numbers
ALTER TABLE `every` MODIFY COLUMN `total` DECIMAL(65,30) DEFAULT NULL;

-- widen instants to text
ALTER TABLE `every` MODIFY COLUMN `total` LONGTEXT CHARACTER SET utf8mb4 COMMENT 'when';
UPDATE `every` SET `total` = CONCAT(REPLACE(`total`, ' ', 'T'), 'Z') WHERE `total` LIKE '____-__-__ __:__:__%';

-- make order
CREATE TABLE IF NOT EXISTS `order` (
	`companyId` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
	`id` BIGINT NOT NULL,
	`at` DATETIME(6),
	`it's ``odd``` LONGTEXT CHARACTER SET utf8mb4,
	`meta` LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
	PRIMARY KEY (`companyId`, `id`)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 ROW_FORMAT=DYNAMIC;

-- upsert a few rows into order
INSERT INTO `order` (`companyId`, `id`, `at`, `it's ``odd```, `meta`) VALUES (?, ?, ?, ?, ?), (?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE `order`.`at` = VALUES(`at`), `order`.`it's ``odd``` = VALUES(`it's ``odd```), `order`.`meta` = VALUES(`meta`);

-- delete from order
DELETE FROM `order` WHERE (`order`.`companyId` = ? AND `order`.`id` = ?);

-- upsert many rows into order
CREATE TEMPORARY TABLE `_eds_up_54d1d2866e4fa474` (
	`companyId` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL,
	`id` bigint NULL,
	`at` datetime(6) NULL,
	`it's ``odd``` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NULL,
	`meta` longtext NULL
) ENGINE=Aria TRANSACTIONAL=0 DEFAULT CHARACTER SET utf8mb4;
LOAD DATA LOCAL INFILE 'Reader::rows' INTO TABLE `_eds_up_54d1d2866e4fa474` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`companyId`, `id`, `at`, `it's ``odd```, `meta`);
INSERT INTO `order` (`companyId`, `id`, `at`, `it's ``odd```, `meta`) SELECT `_eds_up_54d1d2866e4fa474`.`companyId`, `_eds_up_54d1d2866e4fa474`.`id`, `_eds_up_54d1d2866e4fa474`.`at`, `_eds_up_54d1d2866e4fa474`.`it's ``odd```, `_eds_up_54d1d2866e4fa474`.`meta` FROM `_eds_up_54d1d2866e4fa474` ON DUPLICATE KEY UPDATE `order`.`at` = `_eds_up_54d1d2866e4fa474`.`at`, `order`.`it's ``odd``` = `_eds_up_54d1d2866e4fa474`.`it's ``odd```, `order`.`meta` = `_eds_up_54d1d2866e4fa474`.`meta`;

-- delete many rows from order
CREATE TEMPORARY TABLE `_eds_del_930adf5eb886196d` (
	`companyId` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL,
	`id` bigint NULL
) ENGINE=Aria TRANSACTIONAL=0 DEFAULT CHARACTER SET utf8mb4;
LOAD DATA LOCAL INFILE 'Reader::rows' INTO TABLE `_eds_del_930adf5eb886196d` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`companyId`, `id`);
DELETE `order` FROM `_eds_del_930adf5eb886196d` STRAIGHT_JOIN `order` ON `order`.`companyId` = `_eds_del_930adf5eb886196d`.`companyId` AND `order`.`id` = `_eds_del_930adf5eb886196d`.`id`;

-- make a stage for order
CREATE TABLE `_eds_load_order` LIKE `order`;

-- load into it
LOAD DATA LOCAL INFILE 'Reader::rows' IGNORE INTO TABLE `_eds_load_order` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`companyId`, `id`, `at`, `it's ``odd```, `meta`);
LOAD DATA LOCAL INFILE 'Reader::rows' REPLACE INTO TABLE `_eds_load_order` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`companyId`, `id`, `at`, `it's ``odd```, `meta`);

-- put it in place of order
DELETE `order` FROM `order` LEFT JOIN `_eds_load_order` ON `_eds_load_order`.`companyId` = `order`.`companyId` AND `_eds_load_order`.`id` = `order`.`id` WHERE `_eds_load_order`.`companyId` IS NULL;
INSERT INTO `order` (`companyId`, `id`, `at`, `it's ``odd```, `meta`) SELECT `_eds_load_order`.`companyId`, `_eds_load_order`.`id`, `_eds_load_order`.`at`, `_eds_load_order`.`it's ``odd```, `_eds_load_order`.`meta` FROM `_eds_load_order` ON DUPLICATE KEY UPDATE `order`.`at` = `_eds_load_order`.`at`, `order`.`it's ``odd``` = `_eds_load_order`.`it's ``odd```, `order`.`meta` = `_eds_load_order`.`meta`;

-- merge it into order
INSERT INTO `order` (`companyId`, `id`, `at`, `it's ``odd```, `meta`) SELECT `_eds_load_order`.`companyId`, `_eds_load_order`.`id`, `_eds_load_order`.`at`, `_eds_load_order`.`it's ``odd```, `_eds_load_order`.`meta` FROM `_eds_load_order` ON DUPLICATE KEY UPDATE `order`.`at` = `_eds_load_order`.`at`, `order`.`it's ``odd``` = `_eds_load_order`.`it's ``odd```, `order`.`meta` = `_eds_load_order`.`meta`;

-- put it in place of some rows of order
DELETE `order` FROM `order` LEFT JOIN `_eds_load_order` ON `_eds_load_order`.`companyId` = `order`.`companyId` AND `_eds_load_order`.`id` = `order`.`id` WHERE CONVERT(`order`.`companyId` USING utf8mb4) COLLATE utf8mb4_nopad_bin IN ('x', 'it''s \\ odd') AND `_eds_load_order`.`companyId` IS NULL;
INSERT INTO `order` (`companyId`, `id`, `at`, `it's ``odd```, `meta`) SELECT `_eds_load_order`.`companyId`, `_eds_load_order`.`id`, `_eds_load_order`.`at`, `_eds_load_order`.`it's ``odd```, `_eds_load_order`.`meta` FROM `_eds_load_order` ON DUPLICATE KEY UPDATE `order`.`at` = `_eds_load_order`.`at`, `order`.`it's ``odd``` = `_eds_load_order`.`it's ``odd```, `order`.`meta` = `_eds_load_order`.`meta`;
SELECT COUNT(*) FROM `order` WHERE CONVERT(`order`.`companyId` USING utf8mb4) COLLATE utf8mb4_nopad_bin IN ('x', 'it''s \\ odd');

-- make link
CREATE TABLE IF NOT EXISTS `link` (
	`a` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
	`b` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
	PRIMARY KEY (`a`, `b`)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 ROW_FORMAT=DYNAMIC;

-- upsert a few rows into link
INSERT INTO `link` (`a`, `b`) VALUES (?, ?), (?, ?) ON DUPLICATE KEY UPDATE `link`.`a` = `link`.`a`;

-- delete from link
DELETE FROM `link` WHERE (`link`.`a` = ? AND `link`.`b` = ?);

-- upsert many rows into link
CREATE TEMPORARY TABLE `_eds_up_9937ebf9a53f5848` (
	`a` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL,
	`b` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL
) ENGINE=Aria TRANSACTIONAL=0 DEFAULT CHARACTER SET utf8mb4;
LOAD DATA LOCAL INFILE 'Reader::rows' INTO TABLE `_eds_up_9937ebf9a53f5848` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`a`, `b`);
INSERT INTO `link` (`a`, `b`) SELECT `_eds_up_9937ebf9a53f5848`.`a`, `_eds_up_9937ebf9a53f5848`.`b` FROM `_eds_up_9937ebf9a53f5848` ON DUPLICATE KEY UPDATE `link`.`a` = `link`.`a`;

-- delete many rows from link
CREATE TEMPORARY TABLE `_eds_del_9937ebf9a53f5848` (
	`a` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL,
	`b` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL
) ENGINE=Aria TRANSACTIONAL=0 DEFAULT CHARACTER SET utf8mb4;
LOAD DATA LOCAL INFILE 'Reader::rows' INTO TABLE `_eds_del_9937ebf9a53f5848` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`a`, `b`);
DELETE `link` FROM `_eds_del_9937ebf9a53f5848` STRAIGHT_JOIN `link` ON `link`.`a` = `_eds_del_9937ebf9a53f5848`.`a` AND `link`.`b` = `_eds_del_9937ebf9a53f5848`.`b`;

-- make a stage for link
CREATE TABLE `_eds_load_link` LIKE `link`;

-- load into it
LOAD DATA LOCAL INFILE 'Reader::rows' IGNORE INTO TABLE `_eds_load_link` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`a`, `b`);
LOAD DATA LOCAL INFILE 'Reader::rows' REPLACE INTO TABLE `_eds_load_link` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`a`, `b`);

-- put it in place of link
DELETE `link` FROM `link` LEFT JOIN `_eds_load_link` ON `_eds_load_link`.`a` = `link`.`a` AND `_eds_load_link`.`b` = `link`.`b` WHERE `_eds_load_link`.`a` IS NULL;
INSERT INTO `link` (`a`, `b`) SELECT `_eds_load_link`.`a`, `_eds_load_link`.`b` FROM `_eds_load_link` ON DUPLICATE KEY UPDATE `link`.`a` = `link`.`a`;

-- merge it into link
INSERT INTO `link` (`a`, `b`) SELECT `_eds_load_link`.`a`, `_eds_load_link`.`b` FROM `_eds_load_link` ON DUPLICATE KEY UPDATE `link`.`a` = `link`.`a`;

-- put it in place of some rows of link
DELETE `link` FROM `link` LEFT JOIN `_eds_load_link` ON `_eds_load_link`.`a` = `link`.`a` AND `_eds_load_link`.`b` = `link`.`b` WHERE CONVERT(`link`.`a` USING utf8mb4) COLLATE utf8mb4_nopad_bin IN ('x', 'it''s \\ odd') AND `_eds_load_link`.`a` IS NULL;
INSERT INTO `link` (`a`, `b`) SELECT `_eds_load_link`.`a`, `_eds_load_link`.`b` FROM `_eds_load_link` ON DUPLICATE KEY UPDATE `link`.`a` = `link`.`a`;
SELECT COUNT(*) FROM `link` WHERE CONVERT(`link`.`a` USING utf8mb4) COLLATE utf8mb4_nopad_bin IN ('x', 'it''s \\ odd');

-- make folding
CREATE TABLE IF NOT EXISTS `folding` (
	`id` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
	`n` LONGTEXT CHARACTER SET utf8mb4,
	PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 ROW_FORMAT=DYNAMIC;

-- upsert a row into folding
UPDATE `folding` SET `folding`.`n` = ? WHERE `folding`.`id` = CONVERT(? USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`folding`.`id` AS BINARY) = CAST(CONVERT(? USING utf8mb4) AS BINARY);
INSERT INTO `folding` (`id`, `n`) SELECT ?, ? FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM `folding` WHERE `folding`.`id` = CONVERT(? USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`folding`.`id` AS BINARY) = CAST(CONVERT(? USING utf8mb4) AS BINARY));

-- delete from folding
DELETE FROM `folding` WHERE (`folding`.`id` = CONVERT(? USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`folding`.`id` AS BINARY) = CAST(CONVERT(? USING utf8mb4) AS BINARY));

-- upsert many rows into folding
CREATE TEMPORARY TABLE `_eds_up_dad0283ba1393679` (
	`id` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL,
	`n` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NULL
) ENGINE=Aria TRANSACTIONAL=0 DEFAULT CHARACTER SET utf8mb4;
LOAD DATA LOCAL INFILE 'Reader::rows' INTO TABLE `_eds_up_dad0283ba1393679` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`id`, `n`);
UPDATE `_eds_up_dad0283ba1393679` STRAIGHT_JOIN `folding` ON `folding`.`id` = CONVERT(`_eds_up_dad0283ba1393679`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`folding`.`id` AS BINARY) = CAST(CONVERT(`_eds_up_dad0283ba1393679`.`id` USING utf8mb4) AS BINARY) SET `folding`.`n` = `_eds_up_dad0283ba1393679`.`n`;
INSERT INTO `folding` (`id`, `n`) SELECT `_eds_up_dad0283ba1393679`.`id`, `_eds_up_dad0283ba1393679`.`n` FROM `_eds_up_dad0283ba1393679` LEFT JOIN `folding` ON `folding`.`id` = CONVERT(`_eds_up_dad0283ba1393679`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`folding`.`id` AS BINARY) = CAST(CONVERT(`_eds_up_dad0283ba1393679`.`id` USING utf8mb4) AS BINARY) WHERE `folding`.`id` IS NULL;

-- delete many rows from folding
CREATE TEMPORARY TABLE `_eds_del_15a4b267d6554e81` (
	`id` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL
) ENGINE=Aria TRANSACTIONAL=0 DEFAULT CHARACTER SET utf8mb4;
LOAD DATA LOCAL INFILE 'Reader::rows' INTO TABLE `_eds_del_15a4b267d6554e81` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`id`);
DELETE `folding` FROM `_eds_del_15a4b267d6554e81` STRAIGHT_JOIN `folding` ON `folding`.`id` = CONVERT(`_eds_del_15a4b267d6554e81`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`folding`.`id` AS BINARY) = CAST(CONVERT(`_eds_del_15a4b267d6554e81`.`id` USING utf8mb4) AS BINARY);

-- make a stage for folding
CREATE TABLE `_eds_load_folding` (
	`id` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
	`n` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NULL,
	PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 ROW_FORMAT=DYNAMIC;

-- load into it
LOAD DATA LOCAL INFILE 'Reader::rows' IGNORE INTO TABLE `_eds_load_folding` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`id`, `n`);
LOAD DATA LOCAL INFILE 'Reader::rows' REPLACE INTO TABLE `_eds_load_folding` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`id`, `n`);

-- put it in place of folding
DELETE `folding` FROM `folding` LEFT JOIN `_eds_load_folding` ON `_eds_load_folding`.`id` = CONVERT(`folding`.`id` USING utf8mb4) COLLATE utf8mb4_nopad_bin WHERE `_eds_load_folding`.`id` IS NULL;
UPDATE `_eds_load_folding` STRAIGHT_JOIN `folding` ON `folding`.`id` = CONVERT(`_eds_load_folding`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`folding`.`id` AS BINARY) = CAST(CONVERT(`_eds_load_folding`.`id` USING utf8mb4) AS BINARY) SET `folding`.`n` = `_eds_load_folding`.`n`;
INSERT INTO `folding` (`id`, `n`) SELECT `_eds_load_folding`.`id`, `_eds_load_folding`.`n` FROM `_eds_load_folding` LEFT JOIN `folding` ON `folding`.`id` = CONVERT(`_eds_load_folding`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`folding`.`id` AS BINARY) = CAST(CONVERT(`_eds_load_folding`.`id` USING utf8mb4) AS BINARY) WHERE `folding`.`id` IS NULL;

-- merge it into folding
UPDATE `_eds_load_folding` STRAIGHT_JOIN `folding` ON `folding`.`id` = CONVERT(`_eds_load_folding`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`folding`.`id` AS BINARY) = CAST(CONVERT(`_eds_load_folding`.`id` USING utf8mb4) AS BINARY) SET `folding`.`n` = `_eds_load_folding`.`n`;
INSERT INTO `folding` (`id`, `n`) SELECT `_eds_load_folding`.`id`, `_eds_load_folding`.`n` FROM `_eds_load_folding` LEFT JOIN `folding` ON `folding`.`id` = CONVERT(`_eds_load_folding`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`folding`.`id` AS BINARY) = CAST(CONVERT(`_eds_load_folding`.`id` USING utf8mb4) AS BINARY) WHERE `folding`.`id` IS NULL;

-- put it in place of some rows of folding
DELETE `folding` FROM `folding` LEFT JOIN `_eds_load_folding` ON `_eds_load_folding`.`id` = CONVERT(`folding`.`id` USING utf8mb4) COLLATE utf8mb4_nopad_bin WHERE CONVERT(`folding`.`id` USING utf8mb4) COLLATE utf8mb4_nopad_bin IN ('x', 'it''s \\ odd') AND `_eds_load_folding`.`id` IS NULL;
UPDATE `_eds_load_folding` STRAIGHT_JOIN `folding` ON `folding`.`id` = CONVERT(`_eds_load_folding`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`folding`.`id` AS BINARY) = CAST(CONVERT(`_eds_load_folding`.`id` USING utf8mb4) AS BINARY) SET `folding`.`n` = `_eds_load_folding`.`n`;
INSERT INTO `folding` (`id`, `n`) SELECT `_eds_load_folding`.`id`, `_eds_load_folding`.`n` FROM `_eds_load_folding` LEFT JOIN `folding` ON `folding`.`id` = CONVERT(`_eds_load_folding`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`folding`.`id` AS BINARY) = CAST(CONVERT(`_eds_load_folding`.`id` USING utf8mb4) AS BINARY) WHERE `folding`.`id` IS NULL;
SELECT COUNT(*) FROM `folding` WHERE CONVERT(`folding`.`id` USING utf8mb4) COLLATE utf8mb4_nopad_bin IN ('x', 'it''s \\ odd');

-- make guarded
CREATE TABLE IF NOT EXISTS `guarded` (
	`id` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
	`n` LONGTEXT CHARACTER SET utf8mb4,
	`_eds_op` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin,
	`_eds_version` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin,
	`_eds_synced_at` DATETIME(6),
	`_eds_deleted` TINYINT(1),
	PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 ROW_FORMAT=DYNAMIC;

-- upsert a few rows into guarded
INSERT INTO `guarded` (`id`, `n`, `_eds_op`, `_eds_version`, `_eds_synced_at`, `_eds_deleted`) VALUES (?, ?, ?, ?, ?, ?), (?, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE `guarded`.`n` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= VALUES(`_eds_version`)), VALUES(`n`), `guarded`.`n`), `guarded`.`_eds_op` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= VALUES(`_eds_version`)), VALUES(`_eds_op`), `guarded`.`_eds_op`), `guarded`.`_eds_synced_at` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= VALUES(`_eds_version`)), VALUES(`_eds_synced_at`), `guarded`.`_eds_synced_at`), `guarded`.`_eds_deleted` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= VALUES(`_eds_version`)), VALUES(`_eds_deleted`), `guarded`.`_eds_deleted`), `guarded`.`_eds_version` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= VALUES(`_eds_version`)), VALUES(`_eds_version`), `guarded`.`_eds_version`);

-- delete from guarded
UPDATE `guarded` SET `guarded`.`_eds_op` = ?, `guarded`.`_eds_version` = ?, `guarded`.`_eds_synced_at` = ?, `guarded`.`_eds_deleted` = ? WHERE `guarded`.`id` = ? AND (`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= ?);

-- upsert many rows into guarded
CREATE TEMPORARY TABLE `_eds_up_0c5905eddd9b660d` (
	`id` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL,
	`n` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NULL,
	`_eds_op` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NULL,
	`_eds_version` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL,
	`_eds_synced_at` datetime(6) NULL,
	`_eds_deleted` tinyint(1) NULL
) ENGINE=Aria TRANSACTIONAL=0 DEFAULT CHARACTER SET utf8mb4;
LOAD DATA LOCAL INFILE 'Reader::rows' INTO TABLE `_eds_up_0c5905eddd9b660d` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`id`, `n`, `_eds_op`, `_eds_version`, `_eds_synced_at`, `_eds_deleted`);
INSERT INTO `guarded` (`id`, `n`, `_eds_op`, `_eds_version`, `_eds_synced_at`, `_eds_deleted`) SELECT `_eds_up_0c5905eddd9b660d`.`id`, `_eds_up_0c5905eddd9b660d`.`n`, `_eds_up_0c5905eddd9b660d`.`_eds_op`, `_eds_up_0c5905eddd9b660d`.`_eds_version`, `_eds_up_0c5905eddd9b660d`.`_eds_synced_at`, `_eds_up_0c5905eddd9b660d`.`_eds_deleted` FROM `_eds_up_0c5905eddd9b660d` ON DUPLICATE KEY UPDATE `guarded`.`n` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= `_eds_up_0c5905eddd9b660d`.`_eds_version`), `_eds_up_0c5905eddd9b660d`.`n`, `guarded`.`n`), `guarded`.`_eds_op` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= `_eds_up_0c5905eddd9b660d`.`_eds_version`), `_eds_up_0c5905eddd9b660d`.`_eds_op`, `guarded`.`_eds_op`), `guarded`.`_eds_synced_at` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= `_eds_up_0c5905eddd9b660d`.`_eds_version`), `_eds_up_0c5905eddd9b660d`.`_eds_synced_at`, `guarded`.`_eds_synced_at`), `guarded`.`_eds_deleted` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= `_eds_up_0c5905eddd9b660d`.`_eds_version`), `_eds_up_0c5905eddd9b660d`.`_eds_deleted`, `guarded`.`_eds_deleted`), `guarded`.`_eds_version` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= `_eds_up_0c5905eddd9b660d`.`_eds_version`), `_eds_up_0c5905eddd9b660d`.`_eds_version`, `guarded`.`_eds_version`);

-- delete many rows from guarded
CREATE TEMPORARY TABLE `_eds_del_8473e578f3d349e7` (
	`id` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL,
	`_eds_op` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NULL,
	`_eds_version` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL,
	`_eds_synced_at` datetime(6) NULL,
	`_eds_deleted` tinyint(1) NULL
) ENGINE=Aria TRANSACTIONAL=0 DEFAULT CHARACTER SET utf8mb4;
LOAD DATA LOCAL INFILE 'Reader::rows' INTO TABLE `_eds_del_8473e578f3d349e7` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`id`, `_eds_op`, `_eds_version`, `_eds_synced_at`, `_eds_deleted`);
UPDATE `_eds_del_8473e578f3d349e7` STRAIGHT_JOIN `guarded` ON `guarded`.`id` = `_eds_del_8473e578f3d349e7`.`id` SET `guarded`.`_eds_op` = `_eds_del_8473e578f3d349e7`.`_eds_op`, `guarded`.`_eds_version` = `_eds_del_8473e578f3d349e7`.`_eds_version`, `guarded`.`_eds_synced_at` = `_eds_del_8473e578f3d349e7`.`_eds_synced_at`, `guarded`.`_eds_deleted` = `_eds_del_8473e578f3d349e7`.`_eds_deleted` WHERE (`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= `_eds_del_8473e578f3d349e7`.`_eds_version`);

-- make a stage for guarded
CREATE TABLE `_eds_load_guarded` LIKE `guarded`;

-- load into it
LOAD DATA LOCAL INFILE 'Reader::rows' IGNORE INTO TABLE `_eds_load_guarded` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`id`, `n`, `_eds_op`, `_eds_version`, `_eds_synced_at`, `_eds_deleted`);
LOAD DATA LOCAL INFILE 'Reader::rows' REPLACE INTO TABLE `_eds_load_guarded` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`id`, `n`, `_eds_op`, `_eds_version`, `_eds_synced_at`, `_eds_deleted`);

-- put it in place of guarded
DELETE `guarded` FROM `guarded` LEFT JOIN `_eds_load_guarded` ON `_eds_load_guarded`.`id` = `guarded`.`id` WHERE `_eds_load_guarded`.`id` IS NULL;
INSERT INTO `guarded` (`id`, `n`, `_eds_op`, `_eds_version`, `_eds_synced_at`, `_eds_deleted`) SELECT `_eds_load_guarded`.`id`, `_eds_load_guarded`.`n`, `_eds_load_guarded`.`_eds_op`, `_eds_load_guarded`.`_eds_version`, `_eds_load_guarded`.`_eds_synced_at`, `_eds_load_guarded`.`_eds_deleted` FROM `_eds_load_guarded` ON DUPLICATE KEY UPDATE `guarded`.`n` = `_eds_load_guarded`.`n`, `guarded`.`_eds_op` = `_eds_load_guarded`.`_eds_op`, `guarded`.`_eds_version` = `_eds_load_guarded`.`_eds_version`, `guarded`.`_eds_synced_at` = `_eds_load_guarded`.`_eds_synced_at`, `guarded`.`_eds_deleted` = `_eds_load_guarded`.`_eds_deleted`;

-- merge it into guarded
INSERT INTO `guarded` (`id`, `n`, `_eds_op`, `_eds_version`, `_eds_synced_at`, `_eds_deleted`) SELECT `_eds_load_guarded`.`id`, `_eds_load_guarded`.`n`, `_eds_load_guarded`.`_eds_op`, `_eds_load_guarded`.`_eds_version`, `_eds_load_guarded`.`_eds_synced_at`, `_eds_load_guarded`.`_eds_deleted` FROM `_eds_load_guarded` ON DUPLICATE KEY UPDATE `guarded`.`n` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= `_eds_load_guarded`.`_eds_version`), `_eds_load_guarded`.`n`, `guarded`.`n`), `guarded`.`_eds_op` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= `_eds_load_guarded`.`_eds_version`), `_eds_load_guarded`.`_eds_op`, `guarded`.`_eds_op`), `guarded`.`_eds_synced_at` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= `_eds_load_guarded`.`_eds_version`), `_eds_load_guarded`.`_eds_synced_at`, `guarded`.`_eds_synced_at`), `guarded`.`_eds_deleted` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= `_eds_load_guarded`.`_eds_version`), `_eds_load_guarded`.`_eds_deleted`, `guarded`.`_eds_deleted`), `guarded`.`_eds_version` = IF((`guarded`.`_eds_version` IS NULL OR `guarded`.`_eds_version` <= `_eds_load_guarded`.`_eds_version`), `_eds_load_guarded`.`_eds_version`, `guarded`.`_eds_version`);

-- put it in place of some rows of guarded
DELETE `guarded` FROM `guarded` LEFT JOIN `_eds_load_guarded` ON `_eds_load_guarded`.`id` = `guarded`.`id` WHERE CONVERT(`guarded`.`id` USING utf8mb4) COLLATE utf8mb4_nopad_bin IN ('x', 'it''s \\ odd') AND `_eds_load_guarded`.`id` IS NULL;
INSERT INTO `guarded` (`id`, `n`, `_eds_op`, `_eds_version`, `_eds_synced_at`, `_eds_deleted`) SELECT `_eds_load_guarded`.`id`, `_eds_load_guarded`.`n`, `_eds_load_guarded`.`_eds_op`, `_eds_load_guarded`.`_eds_version`, `_eds_load_guarded`.`_eds_synced_at`, `_eds_load_guarded`.`_eds_deleted` FROM `_eds_load_guarded` ON DUPLICATE KEY UPDATE `guarded`.`n` = `_eds_load_guarded`.`n`, `guarded`.`_eds_op` = `_eds_load_guarded`.`_eds_op`, `guarded`.`_eds_version` = `_eds_load_guarded`.`_eds_version`, `guarded`.`_eds_synced_at` = `_eds_load_guarded`.`_eds_synced_at`, `guarded`.`_eds_deleted` = `_eds_load_guarded`.`_eds_deleted`;
SELECT COUNT(*) FROM `guarded` WHERE CONVERT(`guarded`.`id` USING utf8mb4) COLLATE utf8mb4_nopad_bin IN ('x', 'it''s \\ odd');

-- make newer
CREATE TABLE IF NOT EXISTS `newer` (
	`id` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
	`n` LONGTEXT CHARACTER SET utf8mb4,
	`_eds_version` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin,
	PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 ROW_FORMAT=DYNAMIC;

-- upsert a row into newer
UPDATE `newer` SET `newer`.`n` = ?, `newer`.`_eds_version` = ? WHERE `newer`.`id` = CONVERT(? USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`newer`.`id` AS BINARY) = CAST(CONVERT(? USING utf8mb4) AS BINARY) AND (`newer`.`_eds_version` IS NULL OR `newer`.`_eds_version` <= ?);
INSERT INTO `newer` (`id`, `n`, `_eds_version`) SELECT ?, ?, ? FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM `newer` WHERE `newer`.`id` = CONVERT(? USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`newer`.`id` AS BINARY) = CAST(CONVERT(? USING utf8mb4) AS BINARY));

-- delete from newer
DELETE FROM `newer` WHERE (`newer`.`id` = CONVERT(? USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`newer`.`id` AS BINARY) = CAST(CONVERT(? USING utf8mb4) AS BINARY) AND (`newer`.`_eds_version` IS NULL OR `newer`.`_eds_version` <= ?));

-- upsert many rows into newer
CREATE TEMPORARY TABLE `_eds_up_b57772e57d8c1409` (
	`id` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL,
	`n` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NULL,
	`_eds_version` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL
) ENGINE=Aria TRANSACTIONAL=0 DEFAULT CHARACTER SET utf8mb4;
LOAD DATA LOCAL INFILE 'Reader::rows' INTO TABLE `_eds_up_b57772e57d8c1409` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`id`, `n`, `_eds_version`);
UPDATE `_eds_up_b57772e57d8c1409` STRAIGHT_JOIN `newer` ON `newer`.`id` = CONVERT(`_eds_up_b57772e57d8c1409`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`newer`.`id` AS BINARY) = CAST(CONVERT(`_eds_up_b57772e57d8c1409`.`id` USING utf8mb4) AS BINARY) SET `newer`.`n` = `_eds_up_b57772e57d8c1409`.`n`, `newer`.`_eds_version` = `_eds_up_b57772e57d8c1409`.`_eds_version` WHERE (`newer`.`_eds_version` IS NULL OR `newer`.`_eds_version` <= `_eds_up_b57772e57d8c1409`.`_eds_version`);
INSERT INTO `newer` (`id`, `n`, `_eds_version`) SELECT `_eds_up_b57772e57d8c1409`.`id`, `_eds_up_b57772e57d8c1409`.`n`, `_eds_up_b57772e57d8c1409`.`_eds_version` FROM `_eds_up_b57772e57d8c1409` LEFT JOIN `newer` ON `newer`.`id` = CONVERT(`_eds_up_b57772e57d8c1409`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`newer`.`id` AS BINARY) = CAST(CONVERT(`_eds_up_b57772e57d8c1409`.`id` USING utf8mb4) AS BINARY) WHERE `newer`.`id` IS NULL;

-- delete many rows from newer
CREATE TEMPORARY TABLE `_eds_del_7f1ed13e92d858b1` (
	`id` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL,
	`_eds_version` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL
) ENGINE=Aria TRANSACTIONAL=0 DEFAULT CHARACTER SET utf8mb4;
LOAD DATA LOCAL INFILE 'Reader::rows' INTO TABLE `_eds_del_7f1ed13e92d858b1` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`id`, `_eds_version`);
DELETE `newer` FROM `_eds_del_7f1ed13e92d858b1` STRAIGHT_JOIN `newer` ON `newer`.`id` = CONVERT(`_eds_del_7f1ed13e92d858b1`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`newer`.`id` AS BINARY) = CAST(CONVERT(`_eds_del_7f1ed13e92d858b1`.`id` USING utf8mb4) AS BINARY) WHERE (`newer`.`_eds_version` IS NULL OR `newer`.`_eds_version` <= `_eds_del_7f1ed13e92d858b1`.`_eds_version`);

-- make a stage for newer
CREATE TABLE `_eds_load_newer` (
	`id` VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
	`n` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NULL,
	`_eds_version` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL,
	PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 ROW_FORMAT=DYNAMIC;

-- load into it
LOAD DATA LOCAL INFILE 'Reader::rows' IGNORE INTO TABLE `_eds_load_newer` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`id`, `n`, `_eds_version`);
LOAD DATA LOCAL INFILE 'Reader::rows' REPLACE INTO TABLE `_eds_load_newer` CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (`id`, `n`, `_eds_version`);

-- put it in place of newer
DELETE `newer` FROM `newer` LEFT JOIN `_eds_load_newer` ON `_eds_load_newer`.`id` = CONVERT(`newer`.`id` USING utf8mb4) COLLATE utf8mb4_nopad_bin WHERE `_eds_load_newer`.`id` IS NULL;
UPDATE `_eds_load_newer` STRAIGHT_JOIN `newer` ON `newer`.`id` = CONVERT(`_eds_load_newer`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`newer`.`id` AS BINARY) = CAST(CONVERT(`_eds_load_newer`.`id` USING utf8mb4) AS BINARY) SET `newer`.`n` = `_eds_load_newer`.`n`, `newer`.`_eds_version` = `_eds_load_newer`.`_eds_version`;
INSERT INTO `newer` (`id`, `n`, `_eds_version`) SELECT `_eds_load_newer`.`id`, `_eds_load_newer`.`n`, `_eds_load_newer`.`_eds_version` FROM `_eds_load_newer` LEFT JOIN `newer` ON `newer`.`id` = CONVERT(`_eds_load_newer`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`newer`.`id` AS BINARY) = CAST(CONVERT(`_eds_load_newer`.`id` USING utf8mb4) AS BINARY) WHERE `newer`.`id` IS NULL;

-- merge it into newer
UPDATE `_eds_load_newer` STRAIGHT_JOIN `newer` ON `newer`.`id` = CONVERT(`_eds_load_newer`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`newer`.`id` AS BINARY) = CAST(CONVERT(`_eds_load_newer`.`id` USING utf8mb4) AS BINARY) SET `newer`.`n` = `_eds_load_newer`.`n`, `newer`.`_eds_version` = `_eds_load_newer`.`_eds_version` WHERE (`newer`.`_eds_version` IS NULL OR `newer`.`_eds_version` <= `_eds_load_newer`.`_eds_version`);
INSERT INTO `newer` (`id`, `n`, `_eds_version`) SELECT `_eds_load_newer`.`id`, `_eds_load_newer`.`n`, `_eds_load_newer`.`_eds_version` FROM `_eds_load_newer` LEFT JOIN `newer` ON `newer`.`id` = CONVERT(`_eds_load_newer`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`newer`.`id` AS BINARY) = CAST(CONVERT(`_eds_load_newer`.`id` USING utf8mb4) AS BINARY) WHERE `newer`.`id` IS NULL;

-- put it in place of some rows of newer
DELETE `newer` FROM `newer` LEFT JOIN `_eds_load_newer` ON `_eds_load_newer`.`id` = CONVERT(`newer`.`id` USING utf8mb4) COLLATE utf8mb4_nopad_bin WHERE CONVERT(`newer`.`id` USING utf8mb4) COLLATE utf8mb4_nopad_bin IN ('x', 'it''s \\ odd') AND `_eds_load_newer`.`id` IS NULL;
UPDATE `_eds_load_newer` STRAIGHT_JOIN `newer` ON `newer`.`id` = CONVERT(`_eds_load_newer`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`newer`.`id` AS BINARY) = CAST(CONVERT(`_eds_load_newer`.`id` USING utf8mb4) AS BINARY) SET `newer`.`n` = `_eds_load_newer`.`n`, `newer`.`_eds_version` = `_eds_load_newer`.`_eds_version`;
INSERT INTO `newer` (`id`, `n`, `_eds_version`) SELECT `_eds_load_newer`.`id`, `_eds_load_newer`.`n`, `_eds_load_newer`.`_eds_version` FROM `_eds_load_newer` LEFT JOIN `newer` ON `newer`.`id` = CONVERT(`_eds_load_newer`.`id` USING utf8mb4) COLLATE utf8mb4_general_ci AND CAST(`newer`.`id` AS BINARY) = CAST(CONVERT(`_eds_load_newer`.`id` USING utf8mb4) AS BINARY) WHERE `newer`.`id` IS NULL;
SELECT COUNT(*) FROM `newer` WHERE CONVERT(`newer`.`id` USING utf8mb4) COLLATE utf8mb4_nopad_bin IN ('x', 'it''s \\ odd');

