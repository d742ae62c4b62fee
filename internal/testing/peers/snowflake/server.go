// Package snowflake is a test double of the Snowflake service. It speaks Snowflake's protocol over
// HTTP, checks logins, stores staged files, and passes statements to an Engine, which executes
// them.
package snowflake

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// Engine opens sessions that execute statements.
type Engine interface {
	Open(at Place) (Session, error)
}

// Session executes the statements of one session. Its methods are called one at a time.
type Session interface {
	Query(ctx context.Context, q Query) (*Result, error)
	Close() error
}

// Place names the database, schema, warehouse and role with which a session starts, spelled as in
// the client's request.
type Place struct{ Database, Schema, Warehouse, Role string }

// Query is one statement.
type Query struct {
	SQL  string
	Args []string // values of the bind parameters, in order
	// File returns the content of a staged file. The name begins with the stage.
	File func(name string) ([]byte, bool)
}

// Result is the result of a statement.
type Result struct {
	Columns []Column
	Rows    [][]*string // a nil value is NULL
}

// Column is a column of a result.
type Column struct {
	Name string
	Real bool // the values are floating-point numbers; otherwise they are text
}

// Error is an error that the service returns to the client.
type Error struct {
	Code           int
	State, Message string
}

func (e *Error) Error() string { return fmt.Sprintf("%06d (%s): %s", e.Code, e.State, e.Message) }

// Server is the test double's HTTP server.
type Server struct {
	*httptest.Server
	engine Engine
	users  Users

	mu         sync.Mutex
	sessions   map[string]*openSession // by token
	logins     int
	queries    int
	statements []string
	parameters map[string]any // session parameters of the last login
	answers    map[string]any // results of slow statements, by query id
	intercept  func(sql string) error
	slow       bool
	busy       string // value of Retry-After; "" if the service is available
}

// openSession is the server's state of an open session.
type openSession struct {
	Session
	turn  sync.Mutex // held while a statement runs
	mu    sync.Mutex
	files map[string][]byte // staged files by name
}

// New starts a server, which stops when the test ends.
func New(t testing.TB, engine Engine, users Users) *Server {
	s := &Server{engine: engine, users: users, sessions: make(map[string]*openSession), answers: make(map[string]any)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.Server.Close()
		for _, open := range s.sessions {
			if err := open.close(); err != nil {
				t.Errorf("close a session: %v", err)
			}
		}
	})
	return s
}

// Host returns the server's host:port.
func (s *Server) Host() string { return strings.TrimPrefix(s.URL, "http://") }

// Intercept makes the server call f with each statement before it is executed. If f returns an
// error, that error is the statement's result. A nil f ends the interception.
func (s *Server) Intercept(f func(sql string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = f
}

// Busy makes the service answer every request as overloaded, with the given value of Retry-After,
// in seconds. If seconds is "", the service is available again.
func (s *Server) Busy(seconds string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = seconds
}

// Slow makes every statement a long-running one. Instead of a result, the client gets the address
// from which it can fetch the result.
func (s *Server) Slow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow = true
}

// Statements returns all statements that the server has received so far.
func (s *Server) Statements() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.statements...)
}

// Parameters returns the session parameters of the last login.
func (s *Server) Parameters() map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parameters
}

// Files returns the number of files on the stages of open sessions.
func (s *Server) Files() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, open := range s.sessions {
		open.mu.Lock()
		n += len(open.files)
		open.mu.Unlock()
	}
	return n
}

// Sessions returns the number of open sessions.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// ServeHTTP dispatches a request of the client by its path.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	busy := s.busy
	s.mu.Unlock()
	if busy != "" {
		w.Header().Set("Retry-After", busy)
		http.Error(w, "too much to do", http.StatusServiceUnavailable)
		return
	}
	raw, err := content(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch {
	case r.URL.Path == "/session/v1/login-request":
		answer(w, s.login(r.URL.Query(), raw))
	case r.URL.Path == "/queries/v1/query-request":
		answer(w, s.query(r, raw))
	case strings.HasPrefix(r.URL.Path, "/queries/") && strings.HasSuffix(r.URL.Path, "/result"):
		answer(w, s.later(path.Base(path.Dir(r.URL.Path))))
	case r.URL.Path == "/queries/v1/abort-request":
		answer(w, succeeded(map[string]any{}))
	case r.URL.Path == "/session" && r.URL.Query().Get("delete") == "true":
		s.end(token(r))
		answer(w, succeeded(nil))
	case r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, "/storage/"):
		s.store(w, strings.TrimPrefix(r.URL.Path, "/storage/"), raw)
	default:
		http.NotFound(w, r)
	}
}

func content(r *http.Request) ([]byte, error) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		var err error
		if body, err = gzip.NewReader(r.Body); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(body)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // an error means that the client is gone
}

func succeeded(data any) map[string]any { return map[string]any{"success": true, "data": data} }

func failed(err error) map[string]any {
	e := &Error{Code: 370001, State: "XX000", Message: err.Error()}
	errors.As(err, &e)
	return map[string]any{
		"success": false, "code": fmt.Sprintf("%06d", e.Code), "message": e.Message,
		"data": map[string]any{"sqlState": e.State, "queryId": "01b0-0000"},
	}
}

// token returns the session token in a request's Authorization header.
func token(r *http.Request) string {
	_, t, _ := strings.Cut(r.Header.Get("Authorization"), `"`)
	return strings.TrimSuffix(t, `"`)
}

func (s *Server) end(token string) {
	s.mu.Lock()
	open := s.sessions[token]
	delete(s.sessions, token)
	s.mu.Unlock()
	if open != nil {
		_ = open.close()
	}
}

// close closes the session after the running statement has ended.
func (s *openSession) close() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	return s.Session.Close()
}

// request is the body of a query request.
type request struct {
	SQL      string `json:"sqlText"`
	Bindings map[string]struct {
		Type  string
		Value *string
	} `json:"bindings"`
}

func (s *Server) query(r *http.Request, raw []byte) any {
	var in request
	if err := json.Unmarshal(raw, &in); err != nil {
		return failed(err)
	}
	s.mu.Lock()
	open := s.sessions[token(r)]
	s.queries++
	id := fmt.Sprintf("01b1-%04d", s.queries)
	s.statements = append(s.statements, in.SQL)
	intercept, slow := s.intercept, s.slow
	s.mu.Unlock()
	if open == nil {
		return failed(&Error{390111, "08001", "Session no longer exists. New login required to access the service."})
	}
	if intercept != nil {
		if err := intercept(in.SQL); err != nil {
			return failed(err)
		}
	}
	if m := putStatement.FindStringSubmatch(in.SQL); m != nil {
		return s.put(r, m, token(r), id)
	}
	out := open.execute(r.Context(), in, id)
	if !slow {
		return out
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[id] = out
	return map[string]any{"success": true, "code": "333334", "data": map[string]any{"queryId": id, "getResultUrl": "/queries/" +
		id + "/result"}}
}

func (s *Server) later(id string) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, ok := s.answers[id]
	if !ok {
		return failed(&Error{709, "02000", "Statement " + id + " not found"})
	}
	return out
}

var (
	putStatement    = regexp.MustCompile(`^PUT 'file://([^']+)' '(@[^']+)'`)
	removeStatement = regexp.MustCompile(`^REMOVE (@.+)$`)
)

func (s *openSession) execute(ctx context.Context, in request, id string) any {
	s.turn.Lock()
	defer s.turn.Unlock()
	args := make([]string, 0, len(in.Bindings))
	for i := range len(in.Bindings) {
		b, ok := in.Bindings[fmt.Sprint(i+1)]
		if !ok || b.Type != "TEXT" || b.Value == nil {
			return failed(&Error{1008, "22023", "bind variable " + fmt.Sprint(i+1) + " not set, or not text"})
		}
		args = append(args, *b.Value)
	}
	if m := removeStatement.FindStringSubmatch(in.SQL); m != nil {
		return s.remove(stagePath(m[1]), id)
	}
	result, err := s.Query(context.WithoutCancel(ctx), Query{in.SQL, args, s.file})
	if err != nil {
		return failed(err)
	}
	return result.encode(id)
}

// stagePath returns a staged file's location without @ and quotes.
func stagePath(location string) string {
	return strings.ReplaceAll(strings.TrimPrefix(location, "@"), `"`, "")
}

func (s *openSession) file(name string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.files[stagePath(name)]
	return f, ok
}

func (s *openSession) remove(name, id string) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	removed := &Result{Columns: []Column{{Name: "name"}, {Name: "result"}}}
	if _, ok := s.files[name]; ok {
		delete(s.files, name)
		text := "removed"
		removed.Rows = [][]*string{{&name, &text}}
	}
	return removed.encode(id)
}

// put answers a PUT statement with a signed URL, as Snowflake does on Google Cloud, so that the
// client really uploads the file.
func (s *Server) put(r *http.Request, m []string, token, id string) any {
	target := "http://" + r.Host + "/storage/" + url.PathEscape(token) + "/" + url.PathEscape(stagePath(m[2])+"/"+path.Base(m[1]))
	return succeeded(map[string]any{
		"command": "UPLOAD", "src_locations": []string{m[1]}, "parallel": 4, "threshold": 209715200, "autoCompress": false,
		"overwrite": true, "sourceCompression": "gzip",
		"stageInfo": map[string]any{
			"locationType": "GCS", "location": "bucket/stage/", "creds": map[string]any{},
			"presignedUrl": target,
		}, "queryId": id, "parameters": []any{},
	})
}

func (s *Server) store(w http.ResponseWriter, name string, raw []byte) {
	token, file, _ := strings.Cut(name, "/")
	s.mu.Lock()
	open := s.sessions[token]
	s.mu.Unlock()
	if open == nil {
		http.Error(w, "the address has expired", http.StatusForbidden)
		return
	}
	open.mu.Lock()
	defer open.mu.Unlock()
	open.files[file] = raw
}

// statementSelect is the statement type in all results, because the client requests rows for every
// statement.
const statementSelect = 0x1000

func (r *Result) encode(id string) any {
	types := make([]any, len(r.Columns))
	for i, c := range r.Columns {
		kind := "text"
		if c.Real {
			kind = "real"
		}
		types[i] = map[string]any{"name": c.Name, "type": kind, "nullable": true, "length": 16777216, "byteLength": 16777216}
	}
	rows := r.Rows
	if rows == nil {
		rows = [][]*string{}
	}
	return succeeded(map[string]any{
		"queryId": id, "queryResultFormat": "json", "statementTypeId": statementSelect, "rowtype": types, "rowset": rows,
		"total": len(rows), "returned": len(rows), "parameters": []any{},
	})
}
