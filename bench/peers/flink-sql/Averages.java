// The job on Flink's SQL: average per symbol and minute, into a table. A local
// cluster in this process, parallelism 2, tables of its Kafka and JDBC
// connectors, decimals. A group of symbol and minute, not a window that ends:
// late messages count, and a row is written over when it changed. Changes are
// gathered for a second in both steps of the sums; with PEER_PROMPT each is
// written at once.

import java.util.Map;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.kafka.clients.consumer.ConsumerInterceptor;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;

public final class Averages {
  /** Sees the first message; the tables of SQL show no other place for that. */
  public static final class First implements ConsumerInterceptor<byte[], byte[]> {
    @Override
    public ConsumerRecords<byte[], byte[]> onConsume(ConsumerRecords<byte[], byte[]> records) {
      if (!records.isEmpty()) Peer.first();
      return records;
    }

    @Override
    public void onCommit(Map<TopicPartition, OffsetAndMetadata> offsets) {}

    @Override
    public void configure(Map<String, ?> configs) {}

    @Override
    public void close() {}
  }

  private static Configuration settings() {
    Configuration c = new Configuration();
    c.setString("parallelism.default", "2");
    c.setString("pipeline.object-reuse", "true");
    c.setString("table.local-time-zone", "UTC");
    c.setString("table.exec.state.ttl", Peer.GRACE_MS + " ms");
    if (Peer.prompt()) {
      c.setString("execution.buffer-timeout.interval", "0 ms");
    } else {
      c.setString("table.exec.mini-batch.enabled", "true");
      c.setString("table.exec.mini-batch.allow-latency", "1 s");
      c.setString("table.exec.mini-batch.size", "20000");
    }
    return c;
  }

  private static String with(String... pairs) {
    StringBuilder sql = new StringBuilder();
    for (int i = 0; i < pairs.length; i += 2)
      sql.append(i == 0 ? " with ('" : ", '").append(pairs[i]).append("' = '")
          .append(pairs[i + 1].replace("'", "''")).append("'");
    return sql.append(")").toString();
  }

  private static String source(long messages) {
    return "create table prices (symbol string, price decimal(20, 8), `timestamp` double)"
        + with("connector", "kafka", "format", "json", "topic", Peer.setting("PEER_TOPIC", null),
            "properties.bootstrap.servers", Peer.setting("PEER_BROKERS", null),
            "properties.group.id", Peer.setting("PEER_NAME", null),
            "properties.max.poll.records", "10000",
            "properties.interceptor.classes", First.class.getName(),
            "scan.startup.mode", "earliest-offset",
            "scan.bounded.mode", messages > 0 ? "latest-offset" : "unbounded");
  }

  private static String sink() {
    // The connector knows MySQL; the driver knows MariaDB as well.
    String url = Peer.setting("PEER_JDBC", null).replace("jdbc:mariadb:", "jdbc:mysql:");
    return "create table averages (symbol string, start_time timestamp(0),"
        + " average_price decimal(20, 8), samples bigint,"
        + " primary key (symbol, start_time) not enforced)"
        + with("connector", "jdbc", "url", url + "&permitMysqlScheme",
            "driver", "org.mariadb.jdbc.Driver", "table-name", Peer.setting("PEER_TABLE", null),
            "sink.buffer-flush.max-rows", Peer.prompt() ? "1" : "1000",
            "sink.buffer-flush.interval", Peer.prompt() ? "0" : "1 s");
  }

  public static void main(String[] args) throws Exception {
    long messages = Peer.messages();
    TableEnvironment env = TableEnvironment.create(
        EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(settings()).build());
    env.executeSql(source(messages));
    env.executeSql(sink());
    // A time's whole seconds are exact in a double.
    env.executeSql("insert into averages"
           + " select symbol, start_time, avg(price), count(*) from (select symbol, price,"
           + " cast(to_timestamp_ltz(cast(`timestamp` as bigint) / 60 * 60, 0) as timestamp(0))"
           + " as start_time from prices) group by symbol, start_time")
        .await();
    Peer.done(messages);
  }
}
