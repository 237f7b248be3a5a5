-- The state of pipelines. Results and these tables are one set: back up and restore them together.

-- One row for each result table: which pipeline owns it, and up to where it is final.
create table if not exists mill_pipelines (
  pipeline varchar(64) not null,
  result_table varchar(64) not null,
  fingerprint mediumtext not null,
  final_ms bigint null,
  adopted_until bigint null,
  purged_ms bigint null,
  cut_ms bigint null,
  frozen int unsigned not null default 0,
  created_at datetime(3) not null default current_timestamp(3),
  updated_at datetime(3) not null default current_timestamp(3) on update current_timestamp(3),
  primary key (pipeline, result_table),
  unique key result_table (result_table)
) engine = InnoDB default character set utf8mb4 collate ${collation};

-- One row for each partition of a pipeline's topic. `position` is the first offset not yet
-- accounted for; it moves only in the transaction that adds the rows below it to the results.
create table if not exists mill_progress (
  pipeline varchar(64) not null,
  cluster_id varchar(64) not null,
  topic varchar(249) not null,
  `partition` int not null,
  position bigint not null,
  watermark_ms bigint null,
  idle_ms bigint null,
  at_end tinyint(1) not null default 0,
  last_offset bigint null,
  last_hash bigint null,
  owner varchar(64) null,
  instance varchar(128) null,
  epoch bigint not null default 0,
  commit_seq bigint not null default 0,
  updated_at datetime(3) not null default current_timestamp(3) on update current_timestamp(3),
  primary key (pipeline, cluster_id, topic, `partition`)
) engine = InnoDB default character set utf8mb4 collate ${collation};

-- What could not be counted: a bad message, or a result that its column cannot hold.
create table if not exists mill_dead_letters (
  id bigint unsigned not null auto_increment,
  pipeline varchar(64) not null,
  kind enum('message', 'result') not null,
  code varchar(16) not null,
  reason varchar(512) not null,
  path varchar(64) null,
  cluster_id varchar(64) null,
  topic varchar(249) null,
  `partition` int null,
  `offset` bigint null,
  stamp_ms bigint null,
  message_key mediumblob null,
  payload mediumblob null,
  payload_length bigint unsigned null,
  payload_sha256 binary(32) null,
  result_table varchar(64) null,
  result_key varchar(255) null,
  window_start_ms bigint null,
  result_value mediumtext null,
  created_at datetime(3) not null default current_timestamp(3),
  replayed_at datetime(3) null,
  primary key (id),
  unique key message (pipeline, cluster_id, topic, `partition`, `offset`),
  unique key result (result_table, result_key, window_start_ms)
) engine = InnoDB default character set utf8mb4 collate ${collation};

-- Rows that came when their window took no more: too-late, adopted, purged, before-cut.
create table if not exists mill_late (
  id bigint unsigned not null auto_increment,
  pipeline varchar(64) not null,
  result_table varchar(64) not null,
  reason varchar(16) not null,
  cluster_id varchar(64) not null,
  topic varchar(249) not null,
  `partition` int not null,
  `offset` bigint not null,
  row_key varchar(255) not null,
  time_ms bigint not null,
  window_start_ms bigint not null,
  window_end_ms bigint not null,
  lateness_ms bigint null,
  payload mediumblob null,
  payload_length bigint unsigned not null,
  created_at datetime(3) not null default current_timestamp(3),
  primary key (id),
  unique key message (pipeline, result_table, cluster_id, topic, `partition`, `offset`,
    window_start_ms)
) engine = InnoDB default character set utf8mb4 collate ${collation};

-- Offsets that were gone before they were read, and that --on-gap=skip went over.
create table if not exists mill_gaps (
  id bigint unsigned not null auto_increment,
  pipeline varchar(64) not null,
  cluster_id varchar(64) not null,
  topic varchar(249) not null,
  `partition` int not null,
  from_offset bigint not null,
  to_offset bigint not null,
  reason varchar(255) not null,
  created_at datetime(3) not null default current_timestamp(3),
  primary key (id)
) engine = InnoDB default character set utf8mb4 collate ${collation};

-- Running instances; heartbeat_at is the server's time.
create table if not exists mill_instances (
  pipeline varchar(64) not null,
  instance varchar(128) not null,
  run_id varchar(64) not null,
  host varchar(128) not null,
  boot_id varchar(64) not null,
  pid int not null,
  started_at datetime(3) not null,
  heartbeat_at datetime(3) not null,
  primary key (pipeline, instance)
) engine = InnoDB default character set utf8mb4 collate ${collation};
