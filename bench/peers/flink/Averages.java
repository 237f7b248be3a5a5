// The job on Flink's DataStream: average per symbol and minute, into a table.
// A local cluster in this process, parallelism 2, objects used again. A window
// is written when it fires; with PEER_PROMPT it fires for every message.

import java.io.IOException;
import java.time.Duration;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.serialization.AbstractDeserializationSchema;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.KafkaSourceBuilder;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.streaming.api.datastream.WindowedStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.RichSinkFunction;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.time.Time;
import org.apache.flink.streaming.api.windowing.triggers.CountTrigger;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;

public final class Averages {
  /** Bytes to ticks. */
  public static final class Ticks extends AbstractDeserializationSchema<Peer.Tick> {
    @Override
    public Peer.Tick deserialize(byte[] message) throws IOException {
      Peer.first();
      return Peer.Tick.parse(message);
    }
  }

  /** Sum and count. */
  public static final class Sum implements AggregateFunction<Peer.Tick, long[], long[]> {
    @Override
    public long[] createAccumulator() { return new long[2]; }

    @Override
    public long[] add(Peer.Tick t, long[] sums) {
      sums[0] = Math.addExact(sums[0], t.units);
      sums[1]++;
      return sums;
    }

    @Override
    public long[] getResult(long[] sums) { return sums; }

    @Override
    public long[] merge(long[] a, long[] b) {
      return new long[] {Math.addExact(a[0], b[0]), a[1] + b[1]};
    }
  }

  /** A row of the table. */
  public static final class Row {
    public String symbol;
    public long start, sum, samples;

    public Row() {}
  }

  /** A window's sums to a row. */
  public static final class ToRow extends ProcessWindowFunction<long[], Row, String, TimeWindow> {
    @Override
    public void process(String symbol, Context context, Iterable<long[]> sums, Collector<Row> out) {
      long[] v = sums.iterator().next();
      Row row = new Row();
      row.symbol = symbol;
      row.start = context.window().getStart();
      row.sum = v[0];
      row.samples = v[1];
      out.collect(row);
    }
  }

  /** Rows to the table, many at once. */
  public static final class Sink extends RichSinkFunction<Row> {
    private transient Peer.Table table;

    @Override
    public void open(Configuration unused) { table = new Peer.Table(); }

    @Override
    public void invoke(Row r, Context context) {
      table.put(r.symbol, r.start, r.sum, r.samples);
      if (Peer.prompt() || table.size() >= 1000) table.flush();
    }

    @Override
    public void finish() { table.flush(); }

    @Override
    public void close() {
      if (table != null) table.close();
    }
  }

  public static void main(String[] args) throws Exception {
    StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(2);
    env.getConfig().enableObjectReuse();
    long every = Long.parseLong(Peer.setting("PEER_CHECKPOINT_MS", "0"));
    if (every > 0) env.enableCheckpointing(every);
    if (Peer.prompt()) env.setBufferTimeout(0);
    KafkaSourceBuilder<Peer.Tick> source =
        KafkaSource.<Peer.Tick>builder()
            .setBootstrapServers(Peer.setting("PEER_BROKERS", null))
            .setTopics(Peer.setting("PEER_TOPIC", null))
            .setGroupId(Peer.setting("PEER_NAME", null))
            .setProperty("max.poll.records", "10000")
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setValueOnlyDeserializer(new Ticks());
    long messages = Peer.messages();
    if (messages > 0) source.setBounded(OffsetsInitializer.latest());
    WindowedStream<Peer.Tick, String, TimeWindow> windows =
        env.fromSource(source.build(),
               WatermarkStrategy.<Peer.Tick>forBoundedOutOfOrderness(Duration.ofSeconds(2))
                   .withTimestampAssigner((t, before) -> t.ms),
               "prices")
            .keyBy(t -> t.symbol)
            .window(TumblingEventTimeWindows.of(Time.milliseconds(Peer.WINDOW_MS)))
            .allowedLateness(Time.milliseconds(Peer.GRACE_MS));
    if (Peer.prompt()) windows = windows.trigger(CountTrigger.of(1));
    windows.aggregate(new Sum(), new ToRow()).addSink(new Sink());
    env.execute("averages");
    Peer.done(messages);
  }
}
