-- The result table of scripts/averages.lua. `tidemill migrate` adopts an older table of this name
-- before it comes here. ${collation} is binary and does not pad: utf8mb4_0900_bin on MySQL,
-- utf8mb4_nopad_bin on MariaDB; otherwise 'btcusdt' and 'BTCUSDT ' would share a row.
create table if not exists moving_averages (
  symbol varchar(32) character set utf8mb4 collate ${collation} not null,
  start_time datetime not null,
  end_time datetime not null,
  average_price decimal(20,8) null,
  price_sum decimal(38,8) null,
  samples bigint null,
  revision int unsigned not null default 0,
  is_final tinyint(1) not null default 0,
  created_at datetime(3) not null default current_timestamp(3),
  updated_at datetime(3) not null default current_timestamp(3) on update current_timestamp(3),
  primary key (symbol, start_time),
  key is_final_end_time (is_final, end_time)
) engine = InnoDB default character set utf8mb4 collate ${collation};
