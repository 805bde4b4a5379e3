SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE keyturn.note (
    rotation text NOT NULL,
    note text NOT NULL,
    node text NOT NULL,
    noted_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE keyturn.rotation (
    rotation text NOT NULL,
    format bigint NOT NULL,
    direction text NOT NULL,
    epoch bigint NOT NULL,
    closed boolean DEFAULT false NOT NULL,
    role_saved text,
    role_fenced boolean DEFAULT false NOT NULL,
    opened_at timestamp with time zone DEFAULT now() NOT NULL,
    closed_at timestamp with time zone,
    let_in boolean DEFAULT false NOT NULL,
    CONSTRAINT rotation_direction_check CHECK ((direction = ANY (ARRAY['forward'::text, 'back'::text])))
);
CREATE TABLE keyturn.shadow (
    rotation text NOT NULL,
    label text NOT NULL,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    shadow_name text NOT NULL,
    retained_name text NOT NULL,
    state text NOT NULL,
    attached text NOT NULL,
    epoch bigint NOT NULL
);
CREATE TABLE keyturn.shard (
    rotation text NOT NULL,
    shard bigint NOT NULL,
    pass text NOT NULL,
    epoch bigint NOT NULL,
    lease bigint NOT NULL,
    cursor_key text,
    rows_done bigint DEFAULT 0 NOT NULL,
    values_opened bigint DEFAULT 0 NOT NULL,
    values_undecryptable bigint DEFAULT 0 NOT NULL,
    content_digest text DEFAULT '00000000000000000000000000000000'::text NOT NULL,
    done boolean DEFAULT false NOT NULL,
    holder_pid integer NOT NULL,
    holder_start timestamp with time zone NOT NULL,
    rest_digest text DEFAULT '00000000000000000000000000000000'::text NOT NULL,
    raw_digest text DEFAULT '00000000000000000000000000000000'::text NOT NULL
);
INSERT INTO keyturn.note VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 'started', 'node-1', '2026-11-27 19:43:27.481959+00');
INSERT INTO keyturn.note VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 'admitted', 'node-1', '2026-11-27 19:43:27.511933+00');
INSERT INTO keyturn.note VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 'offline', 'node-2', '2026-11-27 19:43:28.303354+00');
INSERT INTO keyturn.rotation VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 2, 'forward', 7, true, '{"version":1,"role":"vault_app","can_login":true,"connection_limit":7}', false, '2026-11-27 19:43:25.858609+00', '2026-11-27 19:43:27.545501+00', true);
INSERT INTO keyturn.rotation VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 2, 'forward', 11, false, '{"version":1,"role":"vault_app","can_login":true,"connection_limit":7}', true, '2026-11-27 19:43:27.898848+00', NULL, false);
INSERT INTO keyturn.shadow VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 'User Entries', 'public', 'User Entries', 'keyturn_01890a5d_2_16397_new', 'keyturn_01890a5d_2_16397_old', 'retired', '{"version":1,"original_oid":16397,"shadow_oid":16494,"objects":[{"kind":"index","schema":"public","name":"User Entries_pkey","shadow":"keyturn_01890a5d_2_16397_new_i0","retained":"keyturn_01890a5d_2_16397_old_i0"}]}', 2);
INSERT INTO keyturn.shadow VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 'attachments', 'public', 'attachments', 'keyturn_01890a5d_2_16411_new', 'keyturn_01890a5d_2_16411_old', 'retired', '{"version":1,"original_oid":16411,"shadow_oid":16499,"objects":[{"kind":"index","schema":"public","name":"attachments_pkey","shadow":"keyturn_01890a5d_2_16411_new_i0","retained":"keyturn_01890a5d_2_16411_old_i0"}]}', 2);
INSERT INTO keyturn.shadow VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 'connections', 'public', 'connections', 'keyturn_01890a5d_2_16389_new', 'keyturn_01890a5d_2_16389_old', 'retired', '{"version":1,"original_oid":16389,"shadow_oid":16504,"objects":[{"kind":"index","schema":"public","name":"connections_pkey","shadow":"keyturn_01890a5d_2_16389_new_i0","retained":"keyturn_01890a5d_2_16389_old_i0"}]}', 2);
INSERT INTO keyturn.shadow VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 'documents', 'public', 'documents', 'keyturn_01890a5d_2_16404_new', 'keyturn_01890a5d_2_16404_old', 'retired', '{"version":1,"original_oid":16404,"shadow_oid":16510,"objects":[{"kind":"index","schema":"public","name":"documents_pkey","shadow":"keyturn_01890a5d_2_16404_new_i0","retained":"keyturn_01890a5d_2_16404_old_i0"}]}', 2);
INSERT INTO keyturn.shard VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 0, 'reencrypt', 2, 1, '["o:00000000-0000-0000-0002-3d70b60b60ac","i:36"]', 50, 50, 0, 'a729259ec7aa9d54041c394065ca7969', true, 0, '2026-11-27 19:43:25.869564+00', '5458870bfe951f3a7c000cfc7ff60b62', '3bf31649a762584f3f5aa6e77bbbba45');
INSERT INTO keyturn.shard VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 3, 'verify', 4, 2, '["t:Ähre-5"]', 25, 25, 0, 'e3c48a4c515a864de32907da13852be9', true, 0, '2026-11-27 19:43:26.657517+00', 'fa4ab43340407bf55023ad41468261b6', 'ae04410069c79ca6049f0ce362744e4a');
INSERT INTO keyturn.shard VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 1, 'reencrypt', 2, 1, '["i:0","t:file 0.bin"]', 1, 1, 0, '1bee8291e95abcc37c0cd5ed9dcd0cf7', true, 0, '2026-11-27 19:43:25.869564+00', '758119bd1f0703703a6474008619cfa2', 'aec7f2c07bd9049afc72075e19aef583');
INSERT INTO keyturn.shard VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 0, 'verify', 11, 4, '["o:00000000-0000-0000-0002-3d70b60b60ac","i:36"]', 50, 50, 0, 'cda305eec104d7bcbf75379727bc1c58', true, 0, '2026-11-27 19:43:28.163641+00', '46989702b9a06f00da6d8aa4b28c43d0', '29cb9a9861ce14a42cce7d13fb6f7327');
INSERT INTO keyturn.shard VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 2, 'reencrypt', 2, 1, '["i:198"]', 100, 190, 0, '44619477e1a4401223e596b1259c63ed', true, 0, '2026-11-27 19:43:25.869564+00', 'cf7f008113b6985c777eec6a98136ad1', 'b139cec60d5f79ed361e95e29d12a351');
INSERT INTO keyturn.shard VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 0, 'reencrypt', 10, 3, '["o:00000000-0000-0000-0002-3d70b60b60ac","i:36"]', 50, 50, 0, 'cda305eec104d7bcbf75379727bc1c58', true, 0, '2026-11-27 19:43:27.918609+00', '46989702b9a06f00da6d8aa4b28c43d0', '220f61053b44c3ce94f366dfb9da3d0c');
INSERT INTO keyturn.shard VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 3, 'reencrypt', 2, 1, '["t:Ähre-5"]', 25, 25, 0, 'e3c48a4c515a864de32907da13852be9', true, 0, '2026-11-27 19:43:25.869564+00', 'fa4ab43340407bf55023ad41468261b6', '4f2620c5c41707a31815a8d63b866fd9');
INSERT INTO keyturn.shard VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 0, 'verify', 4, 2, '["o:00000000-0000-0000-0002-3d70b60b60ac","i:36"]', 50, 50, 0, 'a729259ec7aa9d54041c394065ca7969', true, 0, '2026-11-27 19:43:26.657517+00', '5458870bfe951f3a7c000cfc7ff60b62', '7dff872f4c390fdcee97a0dbe44b88a8');
INSERT INTO keyturn.shard VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 1, 'reencrypt', 10, 3, '["i:0","t:file 0.bin"]', 1, 1, 0, '9d5781847fea09bddaee367083415f19', true, 0, '2026-11-27 19:43:27.918609+00', '0ebfc02d8e88791ab36ac12c740b340e', 'd2d4265803f91bad7e60a7ce6a882675');
INSERT INTO keyturn.shard VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 1, 'verify', 4, 2, '["i:0","t:file 0.bin"]', 1, 1, 0, '1bee8291e95abcc37c0cd5ed9dcd0cf7', true, 0, '2026-11-27 19:43:26.657517+00', '758119bd1f0703703a6474008619cfa2', '6be1e714742ae99d026a6113dc3a6c46');
INSERT INTO keyturn.shard VALUES ('01890a5d-ac96-774b-bcce-b302099a8056', 2, 'verify', 4, 2, '["i:198"]', 100, 190, 0, '44619477e1a4401223e596b1259c63ed', true, 0, '2026-11-27 19:43:26.657517+00', 'cf7f008113b6985c777eec6a98136ad1', '0163920138c0b255fa90cbb876865ba0');
INSERT INTO keyturn.shard VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 2, 'reencrypt', 10, 3, '["i:198"]', 100, 190, 0, '7a75cb876fd2cdbdb9c261fad327941e', true, 0, '2026-11-27 19:43:27.918609+00', 'e32ba507f61d48a292d74cba98b259ca', 'c6876161f8e9258188912f5e05f727d1');
INSERT INTO keyturn.shard VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 3, 'reencrypt', 10, 3, '["t:Ähre-5"]', 25, 25, 0, 'a93c46b397248bc47a56e47214989f65', true, 0, '2026-11-27 19:43:27.918609+00', '753297fe0f7875b45bc4b4f88cbe0b83', '3ba820075c0c4458529fed3768e2e82f');
ALTER TABLE ONLY keyturn.note
    ADD CONSTRAINT note_pkey PRIMARY KEY (rotation, note, node);
ALTER TABLE ONLY keyturn.rotation
    ADD CONSTRAINT rotation_pkey PRIMARY KEY (rotation);
ALTER TABLE ONLY keyturn.shadow
    ADD CONSTRAINT shadow_pkey PRIMARY KEY (rotation, label);
ALTER TABLE ONLY keyturn.shard
    ADD CONSTRAINT shard_pkey PRIMARY KEY (rotation, shard, pass);
ALTER TABLE ONLY keyturn.shadow
    ADD CONSTRAINT shadow_rotation_fkey FOREIGN KEY (rotation) REFERENCES keyturn.rotation(rotation) ON DELETE CASCADE;
ALTER TABLE ONLY keyturn.shard
    ADD CONSTRAINT shard_rotation_fkey FOREIGN KEY (rotation) REFERENCES keyturn.rotation(rotation) ON DELETE CASCADE;
