package snowflake

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	sf "github.com/snowflakedb/gosnowflake"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// connection is what we use of a connection of Snowflake's driver.
type connection interface {
	driver.Conn
	driver.QueryerContext
}

// session is one session of Snowflake. It implements sqlsink.Conn.
type session struct {
	dialect   *dialect
	db        connection
	transport *transport
	id        string // Snowflake's number of the session
	role      string
	warehouse string
	// lacksSchema: the schema that the URL names does not exist yet, or is not to be seen.
	lacksSchema bool
	broken      bool   // a call was not answered: nobody knows what the session does
	staged      int    // files staged so far
	hasStage    bool   // the session's stage is there
	scratch     []byte // room for a metadata value
	plain       []byte // room for lines
}

// noRetries makes Snowflake's driver report an error instead of trying again
// with waits of its own: the engine does that, and knows when to give up.
const noRetries = -1

// parameters returns the parameters of a session. They hold whatever the account
// or the user has set.
func (a *account) parameters() map[string]*string {
	values := map[string]string{
		"QUERY_TAG": a.tag, "TIMEZONE": "UTC", "AUTOCOMMIT": "true", "TRANSACTION_ABORT_ON_ERROR": "true", "ERROR_ON_NONDETERMINISTIC_MERGE": "true",
		"QUOTED_IDENTIFIERS_IGNORE_CASE": "false", "BINARY_OUTPUT_FORMAT": "HEX", "JSON_INDENT": "0", "LOCK_TIMEOUT": strconv.Itoa(int(a.timeouts.Lock.Seconds())), "client_session_keep_alive": strconv.FormatBool(a.keepAlive),
	}
	out := make(map[string]*string, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name]
		out[name] = &value
	}
	return out
}

func (a *account) config(t *transport) sf.Config {
	return sf.Config{
		Account: a.name, User: a.user, Password: a.password, Token: a.token, PrivateKey: a.key, Authenticator: a.authenticator,
		Host: a.host, Port: a.port, Protocol: a.protocol, Database: quote(a.database), Schema: quote(a.schema), Warehouse: quoted(a.warehouse), Role: quoted(a.role),
		Params: a.parameters(), Application: "eds", Transporter: t, MaxRetryCount: noRetries,
		ValidateDefaultParameters: sf.ConfigBoolFalse, DisableConsoleLogin: sf.ConfigBoolTrue,
		//lint:ignore SA1019 what is to replace it is not there yet
		DisableTelemetry: true,
	}
}

// Connect opens a session.
func (d *dialect) Connect(ctx context.Context) (sqlsink.Conn, error) {
	s, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (d *dialect) connect(ctx context.Context) (*session, error) {
	// The client's own log quotes what the server says, which may quote rows.
	log := sf.GetLogger()
	log.SetOutput(io.Discard)
	if err := log.SetLogLevel("fatal"); err != nil {
		return nil, err
	}
	now, err := sink.Renew(d.env.Access, d.target, func(target *url.URL) (*config, error) { return parse(target, d.env) })
	if err != nil {
		return nil, err
	}
	t := newTransport()
	login, cancel := context.WithTimeout(ctx, d.account.loginTimeout)
	defer cancel()
	end := t.begin(login, func() {})
	// The driver keeps the context for what it does later.
	opened, err := sf.NewConnector(sf.SnowflakeDriver{}, now.account.config(t)).Connect(context.WithoutCancel(ctx))
	end()
	if err != nil {
		t.close()
		if r := t.refused(); login.Err() != nil {
			err = context.Cause(login)
		} else if r.status != 0 {
			err = &r
		}
		return nil, now.account.explainConnect(err)
	}
	db, ok := opened.(connection)
	if !ok {
		return nil, errors.New("snowflake's driver does not take queries with a context")
	}
	s := &session{dialect: d, db: db, transport: t}
	if err := s.lookAround(ctx); err != nil {
		_ = s.Close(ctx)
		return nil, err
	}
	return s, nil
}

// whereSQL asks where the session is. What does not exist, or may not be used,
// is NULL.
const whereSQL = "SELECT CURRENT_DATABASE(), CURRENT_SCHEMA(), CURRENT_WAREHOUSE(), CURRENT_ROLE(), CURRENT_SESSION()"

// lookAround finds out whether the session is where it should be. A schema that does
// not exist is made with the first table.
func (s *session) lookAround(ctx context.Context) error {
	a := &s.dialect.account
	at, err := s.query(ctx, "look around", whereSQL)
	if err != nil {
		return err
	}
	if len(at.rows) != 1 || len(at.rows[0]) != 5 {
		return errors.New("look around: the server did not answer with one row")
	}
	var schema string
	schema, s.warehouse, s.role, s.id = at.text(0, 1), at.text(0, 2), at.text(0, 3), at.text(0, 4)
	switch {
	case at.text(0, 0) == "":
		return fault.Mark(fault.Fatal, fmt.Errorf("database %s does not exist, or role %q may not use it; run: GRANT USAGE ON DATABASE %s TO ROLE %s", quote(a.database), s.role, quote(a.database), quote(s.role)))
	case s.warehouse == "" && a.warehouse != "":
		return fault.Mark(fault.Fatal, fmt.Errorf("warehouse %s does not exist, or role %q may not use it; run: GRANT USAGE ON WAREHOUSE %s TO ROLE %s", quote(a.warehouse), s.role, quote(a.warehouse), quote(s.role)))
	case s.warehouse == "":
		return fault.Mark(fault.Fatal, fmt.Errorf("user %q has no warehouse; add warehouse=NAME to the url, or name one with ALTER USER %s SET DEFAULT_WAREHOUSE", a.user, quote(strings.ToUpper(a.user))))
	}
	s.lacksSchema = schema != a.schema
	return nil
}

// makeSchema makes the schema if it does not exist, and goes there.
func (s *session) makeSchema(ctx context.Context) error {
	if !s.lacksSchema {
		return nil
	}
	a := &s.dialect.account
	name := quote(a.database) + "." + quote(a.schema)
	err := s.enterSchema(ctx, "CREATE SCHEMA IF NOT EXISTS "+name, name)
	s.lacksSchema = err != nil
	return err
}

// enterSchema makes a schema by the given statement, and goes there.
func (s *session) enterSchema(ctx context.Context, create, schema string) error {
	a := &s.dialect.account
	name := quote(a.database) + "." + quote(a.schema)
	for _, sql := range []string{create, "USE SCHEMA " + schema} {
		_, err := s.query(ctx, "create the schema", sql)
		if e := new(serverError); errors.As(err, &e) && e.denied() {
			return fault.Mark(fault.Fatal, fmt.Errorf("schema %s does not exist, or role %q may not use it; run: GRANT USAGE, CREATE TABLE, CREATE STAGE ON SCHEMA %s TO ROLE %s, or to have it made: GRANT CREATE SCHEMA ON DATABASE %s TO ROLE %s",
				name, s.role, name, quote(s.role), quote(a.database), quote(s.role)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Close ends the session: with it go an open transaction and the stage.
func (s *session) Close(ctx context.Context) error {
	end := s.transport.begin(ctx, func() {})
	err := s.db.Close()
	end()
	s.transport.close()
	return err
}

// answer is what a statement answered.
type answer struct {
	columns []string
	rows    [][]driver.Value
}

// text returns a value as text; NULL is "".
func (a *answer) text(row, column int) string {
	text, _ := textOf(a.rows[row][column])
	return text
}

// named returns the sum of the named columns' numbers, over all rows.
func (a *answer) named(names ...string) (int64, error) {
	var sum int64
	for i, c := range a.columns {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, c) }) {
			continue
		}
		for r := range a.rows {
			n, err := strconv.ParseInt(a.text(r, i), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("the server's %q is not a number", c)
			}
			sum += n
		}
	}
	return sum, nil
}

// query runs one statement with text parameters and returns all of its answer.
func (s *session) query(ctx context.Context, what, sql string, args ...string) (*answer, error) {
	a := &answer{}
	err := s.each(ctx, what, sql, args, func(columns []string, row []driver.Value) bool {
		a.columns = columns
		a.rows = append(a.rows, slices.Clone(row))
		return true
	})
	return a, err
}

// each runs one statement and calls yield with every row of its answer, until
// that returns false. The row is valid until the next.
func (s *session) each(ctx context.Context, what, sql string, args []string, yield func(columns []string, row []driver.Value) bool) (err error) {
	ctx, call := sqlsink.Await(ctx, s.dialect.account.timeouts.Statement, nil)
	defer call.End()
	defer s.transport.begin(ctx, call.Progress)()
	parameters := make([]driver.NamedValue, len(args))
	for i, a := range args {
		parameters[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	rows, err := s.db.QueryContext(ctx, sql, parameters)
	if err != nil {
		return s.explain(ctx, what, err)
	}
	defer func() {
		if closed := rows.Close(); err == nil && closed != nil {
			err = s.explain(ctx, what, closed)
		}
	}()
	columns := rows.Columns()
	row := make([]driver.Value, len(columns))
	for {
		switch err := rows.Next(row); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return s.explain(ctx, what, err)
		}
		call.Pause()
		if !yield(columns, row) {
			return nil
		}
		call.Resume()
	}
}
