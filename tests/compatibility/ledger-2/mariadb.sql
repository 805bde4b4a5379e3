/*M!999999\- enable the sandbox mode */ 
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `keyturn_rotation` (
  `rotation` varchar(64) NOT NULL,
  `format` bigint(20) NOT NULL,
  `direction` varchar(16) NOT NULL CHECK (`direction` in ('forward','back')),
  `epoch` bigint(20) NOT NULL,
  `closed` tinyint(4) NOT NULL DEFAULT 0,
  `role_saved` longtext DEFAULT NULL,
  `role_fenced` tinyint(4) NOT NULL DEFAULT 0,
  `opened_at` datetime(6) NOT NULL DEFAULT current_timestamp(6),
  `closed_at` datetime(6) DEFAULT NULL,
  `let_in` tinyint(4) NOT NULL DEFAULT 0,
  PRIMARY KEY (`rotation`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;
INSERT INTO `keyturn_rotation` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056',2,'forward',7,1,'{\"version\":1,\"user\":\"vault_app\",\"accounts\":[{\"host\":\"localhost\",\"locked\":false}]}',0,'2026-11-27 19:43:26.631468','2026-11-27 19:43:27.433509',1);
INSERT INTO `keyturn_rotation` VALUES ('01890a5d-ac96-774b-bcce-b302099a8057',2,'forward',11,0,'{\"version\":1,\"user\":\"vault_app\",\"accounts\":[{\"host\":\"localhost\",\"locked\":false}]}',1,'2026-11-27 19:43:27.711350',NULL,0);
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `keyturn_shard` (
  `rotation` varchar(64) NOT NULL,
  `shard` bigint(20) NOT NULL,
  `pass` varchar(32) NOT NULL,
  `epoch` bigint(20) NOT NULL,
  `lease` bigint(20) NOT NULL,
  `cursor_key` longtext DEFAULT NULL,
  `rows_done` bigint(20) NOT NULL DEFAULT 0,
  `values_opened` bigint(20) NOT NULL DEFAULT 0,
  `values_undecryptable` bigint(20) NOT NULL DEFAULT 0,
  `content_digest` varchar(64) NOT NULL DEFAULT '00000000000000000000000000000000',
  `rest_digest` varchar(64) NOT NULL DEFAULT '00000000000000000000000000000000',
  `raw_digest` varchar(64) NOT NULL DEFAULT '00000000000000000000000000000000',
  `done` tinyint(4) NOT NULL DEFAULT 0,
  `holder` varchar(64) NOT NULL,
  PRIMARY KEY (`rotation`,`shard`,`pass`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;
INSERT INTO `keyturn_shard` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056',0,'reencrypt',2,1,'[\"o:00000000-0000-0000-0002-3d70b60b60ac\",\"i:36\"]',50,50,0,'a729259ec7aa9d54041c394065ca7969','d38b0246628d64e7bbcc5714d6d35a9f','a4563d0f58ddbb51c2872960b9e7119a',1,'keyturn.d05b0dfe-ea9a-11f1-aa04-02fc00000001');
INSERT INTO `keyturn_shard` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056',0,'verify',4,2,'[\"o:00000000-0000-0000-0002-3d70b60b60ac\",\"i:36\"]',50,50,0,'a729259ec7aa9d54041c394065ca7969','d38b0246628d64e7bbcc5714d6d35a9f','90c59ef41be722a572422b96a9191f6a',1,'keyturn.d0963285-ea9a-11f1-aa04-02fc00000001');
INSERT INTO `keyturn_shard` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056',1,'reencrypt',2,1,'[\"i:0\",\"t:file 0.bin\"]',1,1,0,'1bee8291e95abcc37c0cd5ed9dcd0cf7','e46692d7e50014c617cc0f464bf730f7','9c60dffd544345ec8b54bed3b2560aa4',1,'keyturn.d068f71a-ea9a-11f1-aa04-02fc00000001');
INSERT INTO `keyturn_shard` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056',1,'verify',4,2,'[\"i:0\",\"t:file 0.bin\"]',1,1,0,'1bee8291e95abcc37c0cd5ed9dcd0cf7','e46692d7e50014c617cc0f464bf730f7','fae5f21d24545c0a667ea9042a4a5de9',1,'keyturn.d09c9f20-ea9a-11f1-aa04-02fc00000001');
INSERT INTO `keyturn_shard` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056',2,'reencrypt',2,1,'[\"i:198\"]',100,190,0,'44619477e1a4401223e596b1259c63ed','dcc0f33e69842e19c79a3f99651b199a','29ca019b8c0fb9cd1d549861ac2c47cc',1,'keyturn.d0731661-ea9a-11f1-aa04-02fc00000001');
INSERT INTO `keyturn_shard` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056',2,'verify',4,2,'[\"i:198\"]',100,190,0,'44619477e1a4401223e596b1259c63ed','dcc0f33e69842e19c79a3f99651b199a','86cb7bcfee32eea5bd9c8b603719445d',1,'keyturn.d0a2167e-ea9a-11f1-aa04-02fc00000001');
INSERT INTO `keyturn_shard` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056',3,'reencrypt',2,1,'[\"t:_-9\"]',25,25,0,'e3c48a4c515a864de32907da13852be9','393f44eaf5828c825e9d97ad87a5fc9d','e56f3bbb2acdbbd7c9099232c259f467',1,'keyturn.d07dead8-ea9a-11f1-aa04-02fc00000001');
INSERT INTO `keyturn_shard` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056',3,'verify',4,2,'[\"t:_-9\"]',25,25,0,'e3c48a4c515a864de32907da13852be9','393f44eaf5828c825e9d97ad87a5fc9d','ebe31591f799be42f053b9161cf372ca',1,'keyturn.d0aabc92-ea9a-11f1-aa04-02fc00000001');
INSERT INTO `keyturn_shard` VALUES ('01890a5d-ac96-774b-bcce-b302099a8057',0,'reencrypt',10,3,'[\"o:00000000-0000-0000-0002-3d70b60b60ac\",\"i:36\"]',50,50,0,'cda305eec104d7bcbf75379727bc1c58','918fb43303924b07493c90e84395afdc','f091f7f3793a20b8760156ba798c0513',1,'keyturn.d0ff14b3-ea9a-11f1-aa04-02fc00000001');
INSERT INTO `keyturn_shard` VALUES ('01890a5d-ac96-774b-bcce-b302099a8057',0,'verify',11,4,'[\"o:00000000-0000-0000-0002-3d70b60b60ac\",\"i:36\"]',50,50,0,'cda305eec104d7bcbf75379727bc1c58','918fb43303924b07493c90e84395afdc','7f1f5c3ef343f23a0b95b6ea33d0fa95',1,'keyturn.d119a555-ea9a-11f1-aa04-02fc00000001');
INSERT INTO `keyturn_shard` VALUES ('01890a5d-ac96-774b-bcce-b302099a8057',1,'reencrypt',10,3,'[\"i:0\",\"t:file 0.bin\"]',1,1,0,'9d5781847fea09bddaee367083415f19','dea16d8d7f79251855f29631144abb80','3aea1156e7031e6ac03540d9696d87af',1,'keyturn.d103a758-ea9a-11f1-aa04-02fc00000001');
INSERT INTO `keyturn_shard` VALUES ('01890a5d-ac96-774b-bcce-b302099a8057',2,'reencrypt',10,3,'[\"i:198\"]',100,190,0,'7a75cb876fd2cdbdb9c261fad327941e','c157f3ae03ba31f2e64d4bc40c97c5b8','9e7102ea9174257f0ff29ffa29bef82c',1,'keyturn.d1075073-ea9a-11f1-aa04-02fc00000001');
INSERT INTO `keyturn_shard` VALUES ('01890a5d-ac96-774b-bcce-b302099a8057',3,'reencrypt',10,3,'[\"t:_-9\"]',25,25,0,'a93c46b397248bc47a56e47214989f65','03f37f9d1bb781f4f036a922c4acf581','f57bd310cf4be8a0eb6add314a29c3bc',1,'keyturn.d10fde82-ea9a-11f1-aa04-02fc00000001');
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `keyturn_shadow` (
  `rotation` varchar(64) NOT NULL,
  `label` varchar(255) NOT NULL,
  `table_name` varchar(64) NOT NULL,
  `shadow_name` varchar(64) NOT NULL,
  `retained_name` varchar(64) NOT NULL,
  `state` varchar(16) NOT NULL,
  `epoch` bigint(20) NOT NULL,
  PRIMARY KEY (`rotation`,`label`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;
INSERT INTO `keyturn_shadow` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056','User Entries','User Entries','keyturn_099a8056_2_0_new','keyturn_099a8056_2_0_old','retired',2);
INSERT INTO `keyturn_shadow` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056','attachments','attachments','keyturn_099a8056_2_1_new','keyturn_099a8056_2_1_old','retired',2);
INSERT INTO `keyturn_shadow` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056','connections','connections','keyturn_099a8056_2_2_new','keyturn_099a8056_2_2_old','retired',2);
INSERT INTO `keyturn_shadow` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056','documents','documents','keyturn_099a8056_2_3_new','keyturn_099a8056_2_3_old','retired',2);
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `keyturn_note` (
  `rotation` varchar(64) NOT NULL,
  `note` varchar(16) NOT NULL,
  `node` varchar(255) NOT NULL,
  `noted_at` datetime(6) NOT NULL DEFAULT current_timestamp(6),
  PRIMARY KEY (`rotation`,`note`,`node`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin ROW_FORMAT=DYNAMIC;
/*!40101 SET character_set_client = @saved_cs_client */;
INSERT INTO `keyturn_note` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056','admitted','node-1','2026-11-27 19:43:27.424178');
INSERT INTO `keyturn_note` VALUES ('01890a5d-ac96-774b-bcce-b302099a8056','started','node-1','2026-11-27 19:43:27.419112');
INSERT INTO `keyturn_note` VALUES ('01890a5d-ac96-774b-bcce-b302099a8057','offline','node-2','2026-11-27 19:43:27.927277');
