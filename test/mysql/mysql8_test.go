// Package mysql_test runs the statements of the mysql driver on a server of MySQL
// 8.0's dialect. It is a module of its own because that server has more dependencies than all other
// tests.
package mysql_test

import (
	"context"
	"database/sql"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"

	sqle "github.com/dolthub/go-mysql-server"
	"github.com/dolthub/go-mysql-server/memory"
	"github.com/dolthub/go-mysql-server/server"
	gms "github.com/dolthub/go-mysql-server/sql"
	"github.com/go-sql-driver/mysql"
)

// open starts a server and returns a session in an empty database of it.
func open(t *testing.T) *sql.DB {
	t.Helper()
	db := memory.NewDatabase("shop")
	db.BaseDatabase.EnablePrimaryKeyIndexes()
	provider := memory.NewDBProvider(db)
	engine := sqle.NewDefault(provider)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.NewServer(server.Config{Protocol: "tcp", Address: listener.Addr().String(), Listener: listener}, engine,
		gms.NewContext, memory.NewSessionBuilder(provider), nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Start() }()
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.DBName, c.Collation = "tcp", listener.Addr().String(), "root", "shop", "utf8mb4_bin"
	connector, err := mysql.NewConnector(c)
	if err != nil {
		t.Fatal(err)
	}
	pool := sql.OpenDB(connector)
	pool.SetMaxOpenConns(1)
	t.Cleanup(func() {
		pool.Close()
		s.Close()
		<-done
	})
	return pool
}

// TestStatements_RunOnMySQL8 runs the golden statements in their order.
func TestStatements_RunOnMySQL8(t *testing.T) {
	text, err := os.ReadFile("../../internal/drivers/mysql/testdata/mysql.sql")
	if err != nil {
		t.Fatal(err)
	}
	db := open(t)
	run(t, db, "SET GLOBAL local_infile = 1")
	for _, part := range strings.Split(strings.TrimSpace(string(text)), "\n\n-- ") {
		title, statements, _ := strings.Cut(strings.TrimPrefix(part, "-- "), "\n")
		t.Run(title, func(t *testing.T) {
			for _, statement := range strings.Split(strings.TrimSuffix(statements, ";"), ";\n") {
				run(t, db, statement)
			}
		})
	}
}

// inserted finds the columns of an INSERT.
var inserted = regexp.MustCompile(`\([^)]*\)`)

func run(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	mysql.RegisterReaderHandler("rows", func() io.Reader { return strings.NewReader("") })
	defer mysql.DeregisterReaderHandler("rows")
	var args []any
	columns := strings.Split(inserted.FindString(statement), ",")
	for i, before := range strings.Split(statement, "?") {
		if i == strings.Count(statement, "?") {
			break
		}
		// This is a valid text, number, date and JSON value, but no boolean.
		value := "20240102"
		if strings.HasPrefix(statement, "INSERT") {
			before = columns[i%len(columns)]
		}
		if strings.Contains(before, "`_eds_deleted`") {
			value = "1"
		}
		args = append(args, value)
	}
	// A database in memory has no temporary tables; their definitions are the same.
	statement = strings.Replace(statement, "CREATE TEMPORARY TABLE", "CREATE TABLE", 1)
	if _, err := db.ExecContext(context.Background(), statement, args...); err != nil {
		t.Errorf("%s\n%v", statement, err)
	}
}
