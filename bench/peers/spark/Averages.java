// The job on Spark Structured Streaming: average per symbol and minute, into a
// table. local[2], 2 shuffle partitions (PEER_SHUFFLE: others), update mode,
// decimal sums; each micro-batch writes the rows it changed.

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.count;
import static org.apache.spark.sql.functions.from_json;
import static org.apache.spark.sql.functions.lit;
import static org.apache.spark.sql.functions.sum;
import static org.apache.spark.sql.functions.window;

import java.math.BigDecimal;
import java.sql.Timestamp;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.DataStreamWriter;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.Trigger;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructType;

public final class Averages {
  private static void write(Dataset<Row> rows) {
    Peer.first();
    rows.foreachPartition(it -> {
      try (Peer.Table table = new Peer.Table()) {
        while (it.hasNext()) {
          Row r = it.next();
          BigDecimal total = r.getDecimal(2);
          table.put(r.getString(0), r.<Timestamp>getAs(1).getTime(),
              total.setScale(8).unscaledValue().longValueExact(), r.getLong(3));
          if (table.size() >= 1000) table.flush();
        }
        table.flush();
      }
    });
  }

  public static void main(String[] args) throws Exception {
    SparkSession spark = SparkSession.builder().master("local[2]").appName("averages")
        .config("spark.sql.shuffle.partitions", Peer.setting("PEER_SHUFFLE", "2"))
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.local.dir", Peer.setting("PEER_DIR", null))
        .config("spark.ui.showConsoleProgress", "false").getOrCreate();
    spark.sparkContext().setLogLevel("ERROR");
    StructType type = new StructType().add("symbol", DataTypes.StringType)
        .add("price", DataTypes.createDecimalType(20, 8))
        .add("timestamp", DataTypes.createDecimalType(20, 6));
    Dataset<Row> sums = spark.readStream().format("kafka")
        .option("kafka.bootstrap.servers", Peer.setting("PEER_BROKERS", null))
        .option("subscribe", Peer.setting("PEER_TOPIC", null))
        .option("startingOffsets", "earliest").load()
        .select(from_json(col("value").cast("string"), type).as("v")).select("v.*")
        .withColumn("t", col("timestamp").cast("timestamp")).withWatermark("t", "1 day")
        .groupBy(window(col("t"), "1 minute"), col("symbol"))
        .agg(sum(col("price")).as("total"), count(lit(1)).as("samples"))
        .select(col("symbol"), col("window.start"), col("total"), col("samples"));
    DataStreamWriter<Row> writer = sums.writeStream().outputMode("update")
        .option("checkpointLocation", Peer.setting("PEER_DIR", null) + "/checkpoint")
        .foreachBatch((VoidFunction2<Dataset<Row>, Long>) (rows, id) -> write(rows));
    long messages = Peer.messages();
    StreamingQuery query =
        writer.trigger(messages > 0 ? Trigger.AvailableNow() : Trigger.ProcessingTime(0)).start();
    query.awaitTermination();
    Peer.done(messages);
  }
}
