// pgx as its users use it. Arguments: host, port, user, password, file of the CA, number of servers.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

var background = context.Background()

func url(options string) string {
	return fmt.Sprintf("postgres://%s:%s@%s:%s/app?%s",
		os.Args[3], os.Args[4], os.Args[1], os.Args[2], options)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func same[T comparable](found, wanted T) {
	if found != wanted {
		panic(fmt.Sprintf("wanted %v, got %v", wanted, found))
	}
}

func state(err error) string {
	var told *pgconn.PgError
	if !errors.As(err, &told) {
		panic(fmt.Sprintf("not an error of PostgreSQL: %v", err))
	}
	return told.Code
}

func connect(options string) *pgx.Conn {
	connection, err := pgx.Connect(background, url(options))
	must(err)
	return connection
}

func value[T any](c *pgx.Conn, sql string, arguments ...any) T {
	var found T
	must(c.QueryRow(background, sql, arguments...).Scan(&found))
	return found
}

func logins() {
	for _, options := range []string{"sslmode=disable", "sslmode=verify-full&sslrootcert=" + os.Args[5]} {
		c := connect(options)
		same(value[string](c, "SELECT current_user::text"), os.Args[3])
		must(c.Close(background))
	}
	_, err := pgx.Connect(background, fmt.Sprintf("postgres://%s:wrong@%s:%s/app?sslmode=disable",
		os.Args[3], os.Args[1], os.Args[2]))
	same(state(err), "28P01")
}

// The ways to ask that pgx has; the first is its default.
func statements() {
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		a := connect("sslmode=disable&default_query_exec_mode=" + mode)
		b := connect("sslmode=disable&default_query_exec_mode=" + mode)
		for i := int32(0); i < 10; i++ {
			same(value[int32](a, "SELECT $1::int4 + 1", i), i+1)
			same(value[string](b, "SELECT $1::text || 'b'", "x"), "xb")
			same(value[int64](b, "SELECT $1::int8 * 2", int64(i)), int64(i)*2)
		}
		_, err := a.Exec(background, "SELECT 1/0")
		same(state(err), "22012")
		same(value[int32](a, "SELECT 1"), 1)
		must(a.Close(background))
		must(b.Close(background))
	}
}

func copies() {
	c := connect("sslmode=disable")
	defer c.Close(background)
	tx, err := c.Begin(background)
	must(err)
	_, err = tx.Exec(background, "CREATE TEMPORARY TABLE copied (n int, t text) ON COMMIT DROP")
	must(err)
	rows := pgx.CopyFromSlice(3000, func(i int) ([]any, error) { return []any{i, fmt.Sprint(i)}, nil })
	count, err := tx.CopyFrom(background, pgx.Identifier{"copied"}, []string{"n", "t"}, rows)
	must(err)
	same(count, int64(3000))
	var sum int64
	must(tx.QueryRow(background, "SELECT sum(n) FROM copied WHERE t = n::text").Scan(&sum))
	same(sum, int64(2999*3000/2))
	must(tx.Commit(background))
}

func batches() {
	c := connect("sslmode=disable")
	defer c.Close(background)
	batch := &pgx.Batch{}
	for i := 0; i < 100; i++ {
		batch.Queue("SELECT $1::int4", i)
	}
	results := c.SendBatch(background, batch)
	for i := 0; i < 100; i++ {
		var found int
		must(results.QueryRow().Scan(&found))
		same(found, i)
	}
	must(results.Close())
	failing := &pgx.Batch{}
	failing.Queue("SELECT 1")
	failing.Queue("SELECT 1/0")
	same(state(c.SendBatch(background, failing).Close()), "22012")
	same(value[int32](c, "SELECT 1"), 1)
}

func transactions() {
	c := connect("sslmode=disable&application_name=gopher&timezone=Asia/Tokyo")
	defer c.Close(background)
	same(value[string](c, "SHOW application_name"), "gopher")
	same(value[string](c, "SHOW timezone"), "Asia/Tokyo")
	err := pgx.BeginTxFunc(background, c, pgx.TxOptions{IsoLevel: pgx.Serializable}, func(tx pgx.Tx) error {
		nested, err := tx.Begin(background)
		must(err)
		_, err = nested.Exec(background, "SELECT 1/0")
		same(state(err), "22012")
		must(nested.Rollback(background))
		var level string
		must(tx.QueryRow(background, "SHOW transaction_isolation").Scan(&level))
		same(level, "serializable")
		return nil
	})
	must(err)
}

func notifications() {
	listener, sender := connect("sslmode=disable"), connect("sslmode=disable")
	defer listener.Close(background)
	defer sender.Close(background)
	_, err := listener.Exec(background, "LISTEN gopher")
	must(err)
	for i := 0; i < 5; i++ {
		_, err = sender.Exec(background, "SELECT pg_notify('gopher', $1)", fmt.Sprint(i))
		must(err)
	}
	limited, done := context.WithTimeout(background, 20*time.Second)
	defer done()
	for i := 0; i < 5; i++ {
		note, err := listener.WaitForNotification(limited)
		must(err)
		same(note.Payload, fmt.Sprint(i))
		same(note.PID, sender.PgConn().PID())
	}
}

func cancels() {
	c := connect("sslmode=disable")
	defer c.Close(background)
	go func() {
		time.Sleep(300 * time.Millisecond)
		must(c.PgConn().CancelRequest(background))
	}()
	_, err := c.Exec(background, "SELECT pg_sleep(60)")
	same(state(err), "57014")
	same(value[int32](c, "SELECT 1"), 1)
	limited, done := context.WithTimeout(background, 300*time.Millisecond)
	defer done()
	_, err = c.Exec(limited, "SELECT pg_sleep(60)")
	same(errors.Is(err, context.DeadlineExceeded), true)
}

// Many goroutines over pgxpool: its connections are more than the servers.
func pool() {
	pool, err := pgxpool.New(background, url("sslmode=disable&pool_max_conns=8"))
	must(err)
	defer pool.Close()
	var all sync.WaitGroup
	for g := 0; g < 20; g++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := 0; i < 20; i++ {
				var found int
				must(pool.QueryRow(background, "SELECT $1::int4 + $2::int4", g, i).Scan(&found))
				same(found, g+i)
			}
		}()
	}
	all.Wait()
}

func main() {
	logins()
	statements()
	copies()
	batches()
	transactions()
	if os.Args[6] != "1" { // a listener would keep the only server
		notifications()
	}
	cancels()
	pool()
	fmt.Println("ok")
}
