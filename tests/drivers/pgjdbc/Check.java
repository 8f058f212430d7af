// pgjdbc as its users use it. Arguments: host, port, user, password, file of the CA, number of servers.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;

public class Check {
    static String[] where;

    interface Body {
        void run() throws Exception;
    }

    public static void main(String[] args) throws Exception {
        where = args;
        logins();
        for (String mode :
                List.of("simple", "extended", "extendedForPrepared", "extendedCacheEverything")) {
            for (String threshold : List.of("1", "5", "-1")) {
                prepared(mode, threshold);
            }
        }
        session();
        batches("false");
        batches("true");
        transactions();
        copies();
        if (!where[5].equals("1")) { // a listener would keep the only server
            notifications();
        }
        cancels();
        for (String mode :
                List.of("simple", "extended", "extendedForPrepared", "extendedCacheEverything")) {
            console(mode);
        }
        System.out.println("ok");
    }

    static Connection connect(String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", where[2]);
        properties.setProperty("password", where[3]);
        properties.setProperty("sslmode", "disable");
        for (int i = 0; i < options.length; i += 2) {
            properties.setProperty(options[i], options[i + 1]);
        }
        return DriverManager.getConnection(url("app"), properties);
    }

    static String url(String database) {
        return "jdbc:postgresql://" + where[0] + ":" + where[1] + "/" + database;
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    static void same(Object found, Object wanted) {
        check(wanted.equals(found), "wanted " + wanted + ", got " + found);
    }

    static void fails(String state, Body body) throws Exception {
        try {
            body.run();
        } catch (SQLException error) {
            same(error.getSQLState(), state);
            return;
        }
        throw new AssertionError("no error " + state);
    }

    static Object one(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getObject(1);
        }
    }

    static void logins() throws Exception {
        String[] verified = {"sslmode", "verify-full", "sslrootcert", where[4]};
        String[] bound = Arrays.copyOf(verified, 6);
        bound[4] = "channelBinding";
        bound[5] = "require";
        for (String[] options : List.of(new String[0], verified, bound)) {
            try (Connection connection = connect(options)) {
                same(one(connection, "SELECT current_user::text"), where[2]);
                check(connection.isValid(5), "valid");
            }
        }
        fails("28P01", () -> connect("password", "wrong").close());
        fails("08004", () -> connect("channelBinding", "require").close());
        fails("42704", () -> connect("options", "-c no_such=1").close());
    }

    // Statements of several clients, named alike, change servers between their executions.
    static void prepared(String mode, String threshold) throws Exception {
        String[] options = {"preferQueryMode", mode, "prepareThreshold", threshold};
        try (Connection a = connect(options);
                Connection b = connect(options);
                PreparedStatement ofA = a.prepareStatement("SELECT ?::int + 1, ?::text");
                PreparedStatement ofB = b.prepareStatement("SELECT 'b', ?::bigint * 2, ?::text")) {
            for (int i = 0; i < 12; i++) {
                ofA.setInt(1, i);
                ofA.setString(2, "a'" + i);
                ofB.setLong(1, i);
                ofB.setString(2, null);
                try (ResultSet rows = ofA.executeQuery()) {
                    rows.next();
                    same(rows.getInt(1), i + 1);
                    same(rows.getString(2), "a'" + i);
                }
                try (ResultSet rows = ofB.executeQuery()) {
                    rows.next();
                    same(rows.getString(1), "b");
                    same(rows.getLong(2), 2L * i);
                    check(rows.getString(3) == null, "null");
                }
            }
            fails("22P02", () -> one(a, "SELECT 'x'::int"));
            same(one(a, "SELECT 1"), 1);
        }
    }

    static void console(String mode) throws Exception {
        Properties properties = new Properties();
        properties.setProperty("user", where[2]);
        properties.setProperty("password", where[3]);
        properties.setProperty("preferQueryMode", mode);
        properties.setProperty("prepareThreshold", "3");
        try (Connection console = DriverManager.getConnection(url("pgbouncer"), properties);
                PreparedStatement pools = console.prepareStatement("SHOW POOLS");
                PreparedStatement stats = console.prepareStatement("SHOW STATS")) {
            for (int i = 0; i < 8; i++) { // from some turn on it is prepared by name
                boolean found = false;
                try (ResultSet rows = pools.executeQuery()) {
                    while (rows.next()) {
                        found |= rows.getString("database").equals("app")
                                && rows.getString("user").equals(where[2])
                                && rows.getLong("cl_active") >= 0;
                    }
                }
                check(found, "the pool of app");
                found = false;
                try (ResultSet rows = stats.executeQuery()) {
                    while (rows.next()) {
                        found |= rows.getString("database").equals("app")
                                && rows.getLong("total_query_count") > 0;
                    }
                }
                check(found, "the figures of app");
            }
            fails("42601", () -> one(console, "SHOW NONSENSE"));
            check(console.isValid(10), "valid");
        }
    }

    static void session() throws Exception {
        try (Connection a = connect("ApplicationName", "first", "currentSchema", "pg_catalog");
                Connection b = connect("options", "-c work_mem=7MB")) {
            for (int i = 0; i < 5; i++) {
                same(one(a, "SHOW application_name"), "first");
                same(one(a, "SHOW search_path"), "pg_catalog");
                same(one(b, "SHOW work_mem"), "7MB");
            }
            a.setSchema("public");
            a.setReadOnly(true);
            b.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            a.setClientInfo("ApplicationName", "second");
            for (int i = 0; i < 3; i++) {
                same(a.getSchema(), "public");
                same(b.getTransactionIsolation(), Connection.TRANSACTION_SERIALIZABLE);
                same(a.getTransactionIsolation(), Connection.TRANSACTION_READ_COMMITTED);
                same(one(a, "SHOW application_name"), "second");
            }
            a.setAutoCommit(false);
            fails("25006", () -> a.createStatement().execute("CREATE TABLE never (n int)"));
            a.rollback();
        }
    }

    static void batches(String rewrite) throws Exception {
        try (Connection connection = connect("reWriteBatchedInserts", rewrite);
                Statement statement = connection.createStatement()) {
            statement.execute("DROP TABLE IF EXISTS batched");
            statement.execute("CREATE TABLE batched (id serial PRIMARY KEY, n int)");
            try (PreparedStatement insert = connection.prepareStatement(
                    "INSERT INTO batched (n) VALUES (?)", Statement.RETURN_GENERATED_KEYS)) {
                for (int turn = 0; turn < 3; turn++) {
                    for (int i = 0; i < 500; i++) {
                        insert.setInt(1, i);
                        insert.addBatch();
                    }
                    same(insert.executeBatch().length, 500);
                    int keys = 0;
                    try (ResultSet rows = insert.getGeneratedKeys()) {
                        while (rows.next()) {
                            keys++;
                        }
                    }
                    same(keys, 500);
                }
            }
            statement.addBatch("INSERT INTO batched VALUES (-1, 0)");
            statement.addBatch("INSERT INTO batched VALUES (-1, 0)");
            try {
                statement.executeBatch();
                throw new AssertionError("no error of a batch");
            } catch (BatchUpdateException error) {
                same(error.getSQLState(), "23505");
            }
            same(one(connection, "SELECT count(*) FROM batched WHERE id > 0"), 1500L);
            statement.execute("DROP TABLE batched");
        }
    }

    static void transactions() throws Exception {
        try (Connection connection = connect("autosave", "always")) {
            connection.setAutoCommit(false);
            try (Statement statement = connection.createStatement()) {
                fails("22012", () -> statement.execute("SELECT 1/0"));
                same(one(connection, "SELECT 2"), 2); // saved by its savepoint
                connection.commit();
                statement.setFetchSize(7); // a portal
                int count = 0;
                try (ResultSet rows =
                        statement.executeQuery("SELECT n FROM generate_series(1, 100) AS n")) {
                    while (rows.next()) {
                        same(rows.getInt(1), ++count);
                    }
                }
                same(count, 100);
                connection.commit();
            }
        }
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            fails("22012", () -> one(connection, "SELECT 1/0"));
            fails("25P02", () -> one(connection, "SELECT 1"));
            connection.rollback();
            same(one(connection, "SELECT 1"), 1);
            connection.commit();
        }
    }

    static void copies() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            statement.execute("CREATE TEMPORARY TABLE copied (n int, t text)");
            var copy = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder lines = new StringBuilder();
            for (int i = 0; i < 5000; i++) {
                lines.append(i).append("\tvalue ").append(i).append('\n');
            }
            byte[] data = lines.toString().getBytes(StandardCharsets.UTF_8);
            same(copy.copyIn("COPY copied FROM STDIN", new ByteArrayInputStream(data)), 5000L);
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            copy.copyOut("COPY copied TO STDOUT", out);
            check(Arrays.equals(out.toByteArray(), data), "what was copied comes back");
            byte[] bad = "x\ty\n".getBytes(StandardCharsets.UTF_8);
            fails("22P02", () -> copy.copyIn(
                    "COPY copied FROM STDIN", new ByteArrayInputStream(bad)));
            same(one(connection, "SELECT count(*) FROM copied"), 5000L);
        }
    }

    static void notifications() throws Exception {
        try (Connection listener = connect(); Connection sender = connect()) {
            listener.createStatement().execute("LISTEN jdbc");
            PGConnection ears = listener.unwrap(PGConnection.class);
            List<String> heard = new ArrayList<>();
            for (int i = 0; i < 5; i++) {
                sender.createStatement().execute("NOTIFY jdbc, '" + i + "'");
            }
            while (heard.size() < 5) {
                PGNotification[] some = ears.getNotifications(20_000);
                check(some != null && some.length > 0, "heard only " + heard);
                for (PGNotification note : some) {
                    same(note.getPID(), sender.unwrap(PGConnection.class).getBackendPID());
                    heard.add(note.getParameter());
                }
            }
            same(heard, List.of("0", "1", "2", "3", "4"));
        }
    }

    static void cancels() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            Thread thread = new Thread(() -> {
                try {
                    Thread.sleep(300);
                    statement.cancel();
                } catch (Exception error) {
                    throw new RuntimeException(error);
                }
            });
            thread.start();
            fails("57014", () -> statement.execute("SELECT pg_sleep(60)"));
            thread.join();
            statement.setQueryTimeout(1);
            fails("57014", () -> statement.execute("SELECT pg_sleep(60)"));
            statement.setQueryTimeout(0);
            same(one(connection, "SELECT 1"), 1);
        }
    }
}
