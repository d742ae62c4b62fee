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

// driverConn has the methods of a connection of Snowflake's driver that eds uses.
type driverConn interface {
	driver.Conn
	driver.QueryerContext
}

// sqlSession is one session of Snowflake. It implements sqlsink.Conn.
type sqlSession struct {
	dialect   *dialect
	db        driverConn
	transport *transport
	id        string // Snowflake's session id
	role      string
	warehouse string
	// lacksSchema is set if the URL's schema does not exist yet, or is not visible to the role.
	lacksSchema bool
	broken      bool   // a call got no response, so the state of the session is unknown
	staged      int    // the number of files uploaded so far
	hasStage    bool   // the session's stage exists
	scratch     []byte // reused for a metadata value
	plain       []byte // reused for JSON lines
}

// noRetries is a retry count with which Snowflake's driver returns errors instead of retrying. The
// SQL engine of eds retries, and knows when to give up.
const noRetries = -1

// parameters returns the session's parameters. They override the settings of the account and the
// user.
func (a *account) parameters() map[string]*string {
	values := map[string]string{
		"QUERY_TAG": a.tag, "TIMEZONE": "UTC", "AUTOCOMMIT": "true", "TRANSACTION_ABORT_ON_ERROR": "true",
		"ERROR_ON_NONDETERMINISTIC_MERGE": "true", "QUOTED_IDENTIFIERS_IGNORE_CASE": "false", "BINARY_OUTPUT_FORMAT": "HEX",
		"JSON_INDENT": "0", "LOCK_TIMEOUT": strconv.Itoa(int(a.timeouts.Lock.Seconds())),
		"client_session_keep_alive": strconv.FormatBool(a.keepAlive),
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
		Host: a.host, Port: a.port, Protocol: a.protocol,
		Database: quote(a.database), Schema: quote(a.schema), Warehouse: quoted(a.warehouse), Role: quoted(a.role),
		Params: a.parameters(), Application: "eds", Transporter: t, MaxRetryCount: noRetries,
		ValidateDefaultParameters: sf.ConfigBoolFalse, DisableConsoleLogin: sf.ConfigBoolTrue,
		//lint:ignore SA1019 what is to replace it is not there yet
		DisableTelemetry: true,
	}
}

// Connect opens a session. Each call parses the URL again, with the current values of placeholders
// and the current contents of files, and so uses renewed credentials.
func (d *dialect) Connect(ctx context.Context) (sqlsink.Conn, error) {
	s, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (d *dialect) connect(ctx context.Context) (*sqlSession, error) {
	// Disable the driver's own log. It contains messages of the server, which may quote values.
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
	end := t.bind(login, func() {})
	// The driver keeps the context for later requests.
	opened, err := sf.NewConnector(sf.SnowflakeDriver{}, now.account.config(t)).Connect(context.WithoutCancel(ctx))
	end()
	if err != nil {
		t.close()
		if r := t.lastRefusal(); login.Err() != nil {
			err = context.Cause(login)
		} else if r.status != 0 {
			err = &r
		}
		return nil, now.account.explainConnect(err)
	}
	db, ok := opened.(driverConn)
	if !ok {
		return nil, errors.New("snowflake's driver does not take queries with a context")
	}
	s := &sqlSession{dialect: d, db: db, transport: t}
	if err := s.inspectSession(ctx); err != nil {
		_ = s.Close(ctx)
		return nil, err
	}
	return s, nil
}

// sessionSQL selects the session's database, schema, warehouse, role and id. The name of an object
// is NULL if the object does not exist or the role may not use it.
const sessionSQL = "SELECT CURRENT_DATABASE(), CURRENT_SCHEMA(), CURRENT_WAREHOUSE(), CURRENT_ROLE(), CURRENT_SESSION()"

// inspectSession checks that the session can use the database and the warehouse of the URL. If the
// schema does not exist, the first DDL creates it.
func (s *sqlSession) inspectSession(ctx context.Context) error {
	a := &s.dialect.account
	at, err := s.query(ctx, "inspect the session", sessionSQL)
	if err != nil {
		return err
	}
	if len(at.rows) != 1 || len(at.rows[0]) != 5 {
		return errors.New("inspect the session: the server did not return one row")
	}
	var schema string
	schema, s.warehouse, s.role, s.id = at.text(0, 1), at.text(0, 2), at.text(0, 3), at.text(0, 4)
	switch {
	case at.text(0, 0) == "":
		return fault.Mark(fault.Fatal, fmt.Errorf("database %s does not exist, or role %q may not use it; "+
			"run: GRANT USAGE ON DATABASE %[1]s TO ROLE %[3]s", quote(a.database), s.role, quote(s.role)))
	case s.warehouse == "" && a.warehouse != "":
		return fault.Mark(fault.Fatal, fmt.Errorf("warehouse %s does not exist, or role %q may not use it; "+
			"run: GRANT USAGE ON WAREHOUSE %[1]s TO ROLE %[3]s", quote(a.warehouse), s.role, quote(s.role)))
	case s.warehouse == "":
		return fault.Mark(fault.Fatal, fmt.Errorf("user %q has no warehouse; add warehouse=NAME to the url, "+
			"or name one with ALTER USER %s SET DEFAULT_WAREHOUSE", a.user, quote(strings.ToUpper(a.user))))
	}
	s.lacksSchema = schema != a.schema
	return nil
}

// makeSchema creates the URL's schema if it does not exist, and makes it the session's current
// schema.
func (s *sqlSession) makeSchema(ctx context.Context) error {
	if !s.lacksSchema {
		return nil
	}
	a := &s.dialect.account
	name := quote(a.database) + "." + quote(a.schema)
	err := s.enterSchema(ctx, "CREATE SCHEMA IF NOT EXISTS "+name, name)
	s.lacksSchema = err != nil
	return err
}

// enterSchema creates a schema by running the statement create, and makes the schema the session's
// current schema. The parameter schema is the quoted name of the schema.
func (s *sqlSession) enterSchema(ctx context.Context, create, schema string) error {
	a := &s.dialect.account
	name := quote(a.database) + "." + quote(a.schema)
	for _, sql := range []string{create, "USE SCHEMA " + schema} {
		_, err := s.query(ctx, "create the schema", sql)
		if e := new(serverError); errors.As(err, &e) && e.denied() {
			return fault.Mark(fault.Fatal, fmt.Errorf("schema %s does not exist, or role %q may not use it; "+
				"run: GRANT USAGE, CREATE TABLE, CREATE STAGE ON SCHEMA %[1]s TO ROLE %[3]s, "+
				"or, to let eds create it: GRANT CREATE SCHEMA ON DATABASE %[4]s TO ROLE %[3]s",
				name, s.role, quote(s.role), quote(a.database)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Close closes the session. Snowflake then rolls back an open transaction and drops the session's
// stage.
func (s *sqlSession) Close(ctx context.Context) error {
	end := s.transport.bind(ctx, func() {})
	err := s.db.Close()
	end()
	s.transport.close()
	return err
}

// queryResult is the result of a statement.
type queryResult struct {
	columns []string
	rows    [][]driver.Value
}

// text returns a value as text, or "" for NULL.
func (r *queryResult) text(row, column int) string {
	text, _ := textOf(r.rows[row][column])
	return text
}

// sumColumns returns the sum of all values in the named columns. It ignores the case of the names.
func (r *queryResult) sumColumns(names ...string) (int64, error) {
	var sum int64
	for i, c := range r.columns {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, c) }) {
			continue
		}
		for row := range r.rows {
			n, err := strconv.ParseInt(r.text(row, i), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("the server's %q is not a number", c)
			}
			sum += n
		}
	}
	return sum, nil
}

// query runs one statement with text parameters and returns the whole result.
func (s *sqlSession) query(ctx context.Context, what, sql string, args ...string) (*queryResult, error) {
	a := &queryResult{}
	err := s.each(ctx, what, sql, args, func(columns []string, row []driver.Value) bool {
		a.columns = columns
		a.rows = append(a.rows, slices.Clone(row))
		return true
	})
	return a, err
}

// The method named each runs one statement with text parameters and passes each row of the result
// to the function yield, until that function returns false. A row is valid only during the call of
// yield.
func (s *sqlSession) each(
	ctx context.Context, what, sql string, args []string, yield func(columns []string, row []driver.Value) bool,
) (err error) {
	ctx, call := sqlsink.Await(ctx, s.dialect.account.timeouts.Statement, nil)
	defer call.End()
	defer s.transport.bind(ctx, call.Progress)()
	parameters := make([]driver.NamedValue, len(args))
	for i, a := range args {
		parameters[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	rows, err := s.db.QueryContext(ctx, sql, parameters)
	if err != nil {
		return s.sessionError(ctx, what, err)
	}
	defer func() {
		if closed := rows.Close(); err == nil && closed != nil {
			err = s.sessionError(ctx, what, closed)
		}
	}()
	columns := rows.Columns()
	row := make([]driver.Value, len(columns))
	for {
		switch err := rows.Next(row); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return s.sessionError(ctx, what, err)
		}
		call.Pause()
		if !yield(columns, row) {
			return nil
		}
		call.Resume()
	}
}
