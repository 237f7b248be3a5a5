// The job on Kafka Streams: average per symbol and minute, into a table. State
// in RocksDB, or in memory (PEER_STORE), with a cache before it; rows are
// written when the cache lets them go and when a second has passed, before the
// task commits. With PEER_PROMPT there is no cache: each change is written.

import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowStore;

public final class Averages {
  private static final AtomicLong SEEN = new AtomicLong();

  private static Peer.Tick parse(byte[] value) {
    try {
      Peer.first();
      return Peer.Tick.parse(value);
    } catch (java.io.IOException e) {
      throw new IllegalArgumentException(e);
    }
  }

  private static final Serde<Peer.Tick> TICKS = Serdes.serdeFrom(
      (topic, t) -> { throw new UnsupportedOperationException(); }, (topic, b) -> parse(b));

  private static final Serde<long[]> SUMS = Serdes.serdeFrom(
      (topic, v) -> v == null ? null : ByteBuffer.allocate(16).putLong(v[0]).putLong(v[1]).array(),
      (topic, b) -> {
        if (b == null) return null;
        ByteBuffer buffer = ByteBuffer.wrap(b);
        return new long[] {buffer.getLong(), buffer.getLong()};
      });

  /** One for each task; its table is flushed each second and when it is big. */
  private static final class Sink implements Processor<Windowed<String>, long[], Void, Void> {
    private Peer.Table table;

    @Override
    public void init(ProcessorContext<Void, Void> context) {
      table = new Peer.Table();
      context.schedule(Duration.ofMillis(1000), PunctuationType.WALL_CLOCK_TIME, now -> flush());
    }

    private void flush() { table.flush(); }

    @Override
    public void process(Record<Windowed<String>, long[]> r) {
      long[] v = r.value();
      table.put(r.key().key(), r.key().window().start(), v[0], v[1]);
      if (Peer.prompt() || table.size() >= 1000) flush();
    }

    @Override
    public void close() {
      flush();
      table.close();
    }
  }

  /** Where the sums are; their changes go to a topic as well. */
  private static Materialized<String, long[], WindowStore<Bytes, byte[]>> store() {
    Duration kept = Duration.ofMillis(Peer.WINDOW_MS + Peer.GRACE_MS);
    Materialized<String, long[], WindowStore<Bytes, byte[]>> in =
        Peer.setting("PEER_STORE", "rocksdb").equals("memory")
        ? Materialized.as(Stores.inMemoryWindowStore(
              "sums", kept, Duration.ofMillis(Peer.WINDOW_MS), false))
        : Materialized.<String, long[], WindowStore<Bytes, byte[]>>as("sums").withRetention(kept);
    return in.withKeySerde(Serdes.String()).withValueSerde(SUMS);
  }

  /** Ends the run once all messages were seen: closing flushes cache and table. */
  private static void awaitEnd(KafkaStreams streams) throws InterruptedException {
    long messages = Peer.messages();
    while (messages == 0 || SEEN.get() < messages) {
      if (streams.state() == KafkaStreams.State.ERROR) System.exit(1);
      Thread.sleep(5);
    }
    streams.close();
    Peer.done(messages);
  }

  public static void main(String[] args) throws Exception {
    Properties p = new Properties();
    p.put(StreamsConfig.APPLICATION_ID_CONFIG, Peer.setting("PEER_NAME", null));
    p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, Peer.setting("PEER_BROKERS", null));
    p.put(StreamsConfig.STATE_DIR_CONFIG, Peer.setting("PEER_DIR", null));
    p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG,
        Peer.setting("PEER_GUARANTEE", StreamsConfig.AT_LEAST_ONCE));
    // One for each of three partitions: with two, one of them has the double work.
    p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 3);
    p.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 20000);
    p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, Peer.prompt() ? 0 : 64 << 20);
    p.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
    p.put(StreamsConfig.consumerPrefix("max.poll.records"), 10000);
    StreamsBuilder builder = new StreamsBuilder();
    builder
        .stream(Peer.setting("PEER_TOPIC", null), Consumed.with(Serdes.String(), TICKS)
            .withTimestampExtractor((r, before) -> ((Peer.Tick) r.value()).ms))
        .groupByKey()
        .windowedBy(TimeWindows.ofSizeAndGrace(
            Duration.ofMillis(Peer.WINDOW_MS), Duration.ofMillis(Peer.GRACE_MS)))
        .aggregate(() -> new long[2], (key, tick, sums) -> {
          SEEN.incrementAndGet();
          return new long[] {Math.addExact(sums[0], tick.units), sums[1] + 1};
        }, store())
        .toStream()
        .process(Sink::new);
    KafkaStreams streams = new KafkaStreams(builder.build(), p);
    streams.start();
    awaitEnd(streams);
  }
}
