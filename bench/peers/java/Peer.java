// What the Java programs of bench/peers share: settings, a price message, and
// a table of averages written in batches. No framework is named here.
//
// A row holds the whole of its window so far and is written over: after a
// crash a system that reads again does not add twice.

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.sql.Timestamp;
import java.util.HashMap;
import java.util.Map;

public final class Peer {
  public static final long WINDOW_MS = 60_000;
  public static final long GRACE_MS = 86_400_000;

  private static final long STARTED =
      java.lang.management.ManagementFactory.getRuntimeMXBean().getStartTime();
  private static final JsonFactory JSON = new JsonFactory();

  private Peer() {}

  /** A setting of the environment; one without a default must be there. */
  public static String setting(String name, String otherwise) {
    String value = System.getenv(name);
    if (value == null && otherwise == null)
      throw new IllegalArgumentException(name + " is not set");
    return value == null ? otherwise : value;
  }

  /** How many messages end the run; 0: it goes on. */
  public static long messages() {
    return Long.parseLong(setting("PEER_MESSAGES", "0"));
  }

  /** Is every change to be visible at once? */
  public static boolean prompt() { return setting("PEER_PROMPT", "0").equals("1"); }

  private static volatile long firstMs;

  /** The first message has come. */
  public static void first() {
    if (firstMs == 0) firstMs = System.currentTimeMillis();
  }

  /** All is in the table: say how long it took, and end. */
  public static void done(long messages) {
    long now = System.currentTimeMillis();
    System.out.printf(
        "{\"messages\":%d,\"first_message_ms\":%d,\"warm_messages_per_second\":%.0f}%n", messages,
        firstMs - STARTED, messages * 1000.0 / Math.max(1, now - firstMs));
    System.out.flush();
    Runtime.getRuntime().halt(0);
  }

  /** A price message: symbol, price in 1e-8, event time in ms. */
  public static final class Tick {
    public String symbol;
    public long units;
    public long ms;

    public Tick() {}

    public static Tick parse(byte[] json) throws IOException {
      Tick t = new Tick();
      try (JsonParser p = JSON.createParser(json)) {
        p.nextToken();
        while (p.nextToken() == JsonToken.FIELD_NAME) {
          String name = p.currentName();
          p.nextToken();
          switch (name) {
            case "symbol": t.symbol = p.getText(); break;
            case "price":
              t.units = new BigDecimal(p.getText()).setScale(8).unscaledValue().longValueExact();
              break;
            case "timestamp":
              t.ms = new BigDecimal(p.getText()).movePointRight(3)
                         .setScale(0, RoundingMode.FLOOR).longValueExact();
              break;
            default: p.skipChildren();
          }
        }
      }
      return t;
    }
  }

  /** The table: rows are kept until flush, the newest of each key and window. */
  public static final class Table implements AutoCloseable {
    private static final int ROWS = 1000; // of one statement

    private final Connection db;
    private final String head;
    private final Map<String, Object[]> rows = new HashMap<>();

    public Table() {
      try {
        db = DriverManager.getConnection(setting("PEER_JDBC", null));
        db.setAutoCommit(false);
      } catch (SQLException e) {
        throw new IllegalStateException(e);
      }
      head = "insert into " + setting("PEER_TABLE", null)
          + " (symbol, start_time, average_price, samples) values ";
    }

    public void put(String symbol, long startMs, long sum, long samples) {
      rows.put(symbol + "@" + startMs, new Object[] {symbol, startMs, sum, samples});
    }

    public int size() { return rows.size(); }

    public void flush() {
      if (rows.isEmpty()) return;
      try {
        Object[][] all = rows.values().toArray(new Object[0][]);
        for (int from = 0; from < all.length; from += ROWS)
          write(all, from, Math.min(all.length, from + ROWS));
        db.commit();
        rows.clear();
      } catch (SQLException e) {
        throw new IllegalStateException(e);
      }
    }

    private void write(Object[][] all, int from, int to) throws SQLException {
      StringBuilder sql = new StringBuilder(head);
      for (int i = from; i < to; i++)
        sql.append(i > from ? ",(?,?,?,?)" : "(?,?,?,?)");
      sql.append(" on duplicate key update average_price = values(average_price),"
          + " samples = values(samples)");
      try (PreparedStatement s = db.prepareStatement(sql.toString())) {
        int at = 0;
        for (int i = from; i < to; i++) {
          Object[] row = all[i];
          s.setString(++at, (String) row[0]);
          s.setTimestamp(++at, new Timestamp((Long) row[1]));
          s.setBigDecimal(++at, average((Long) row[2], (Long) row[3]));
          s.setLong(++at, (Long) row[3]);
        }
        s.executeUpdate();
      }
    }

    @Override
    public void close() {
      try {
        db.close();
      } catch (SQLException e) {
        throw new IllegalStateException(e);
      }
    }
  }

  /** sum / samples, rounded half up to eight places. */
  public static BigDecimal average(long sum, long samples) {
    return BigDecimal.valueOf(sum, 8).divide(BigDecimal.valueOf(samples), 8, RoundingMode.HALF_UP);
  }
}
