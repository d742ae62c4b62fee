// Package control lets the operator control the server that runs with a data directory. It uses
// HTTP over a socket in that directory, which only the directory's owner can open. Requests and
// responses are JSON. The progress of an import is a stream of JSON lines.
//
//	GET /status            the state of the server
//	POST /import           begin an import, and watch it
//	GET /import?id=ID      watch an import
//	DELETE /import?id=ID   end an import
//	POST /accept-gap       accept that tables are incomplete
//	POST /verified         end warnings about tables whose rows were found equal
package control

import (
	"context"
	"errors"
	"time"

	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// Handler handles requests of the operator. Its methods must be safe for concurrent use.
type Handler interface {
	// Report returns the state of the server.
	Report() server.Report
	// RequestImport requests an import with the given id, a UUID, into the server's
	// destination. The parameter identity is the identity of the destination that the client
	// expects, or "" for any. If the server has another destination, the error is a
	// *server.OtherDestinationError. If an import with this id exists, RequestImport does
	// nothing.
	RequestImport(id, identity string, o snapshot.Options) error
	// WatchImport calls observe with the progress of an import until the import ends, and
	// returns its outcome. If ctx is done, the import continues. A slow observe does not delay
	// the import: intermediate states of a table are then left out.
	WatchImport(ctx context.Context, id string, observe func(snapshot.TableProgress, snapshot.Totals)) (snapshot.Report, error)
	// CancelImport cancels an import.
	CancelImport(id string) error
	// AcceptGap accepts the gap with the given id for one table, or for all tables of the gap
	// if table is "". It returns the names of these tables.
	AcceptGap(id, table string) (tables []string, err error)
	// Verified ends the warnings about tables that were compared and found equal. The parameter
	// identity and the errors are like those of RequestImport.
	Verified(identity string, v server.Verification) error
}

// ErrNoServer means that no server answers for the data directory.
var ErrNoServer = errors.New("no server answers")

// ErrConnectionLost means that the server ended or crashed before it responded.
var ErrConnectionLost = errors.New("the server ended the connection")

// Error is the response to a failed request.
type Error struct {
	Message string `json:"error"`
	// ExitCode is the exit code for the operator's command. It is 3 if the operator must change
	// the request or the configuration, and 1 otherwise.
	ExitCode int `json:"exitCode"`
}

func (e *Error) Error() string { return e.Message }

// ImportRequest is the body of POST /import.
type ImportRequest struct {
	// ID is a UUID that the client chooses, so that the client can repeat the request after a crash
	// without starting a second import. If it is "", the server chooses the id.
	ID string `json:"id,omitempty"`
	// Destination is the identity of the destination that the client expects, or "" for any.
	Destination string  `json:"destination,omitempty"`
	Options     Options `json:"options"`
}

// Options are the snapshot.Options that a server accepts.
type Options struct {
	Only        []string  `json:"only,omitempty"`
	CompanyIDs  []string  `json:"companyIds,omitempty"`
	LocationIDs []string  `json:"locationIds,omitempty"`
	TimeOffset  time.Time `json:"timeOffset,omitzero"`
	SchemaOnly  bool      `json:"schemaOnly,omitempty"`
	NoDelete    bool      `json:"noDelete,omitempty"`
	AllowEmpty  bool      `json:"allowEmpty,omitempty"`
	Strict      bool      `json:"strict,omitempty"`
	Parallel    int       `json:"parallel,omitempty"` // number of tables imported at a time; 0 means the server's default
}

func (o Options) snapshot() snapshot.Options {
	return snapshot.Options{
		Only: o.Only, CompanyIDs: o.CompanyIDs, LocationIDs: o.LocationIDs, TimeOffset: o.TimeOffset, SchemaOnly: o.SchemaOnly,
		NoDelete: o.NoDelete, AllowEmpty: o.AllowEmpty, Strict: o.Strict, Parallel: o.Parallel,
	}
}

// gapRequest is the body of POST /accept-gap.
type gapRequest struct {
	ID    string `json:"id"`
	Table string `json:"table,omitempty"` // "" means all tables of the gap
}

// verifiedRequest is the body of POST /verified.
type verifiedRequest struct {
	Destination string `json:"destination"` // identity of the compared destination
	server.Verification
}

// gapResponse is the response to POST /accept-gap.
type gapResponse struct {
	Tables []string `json:"tables"`
}

// importUpdate is one line in the stream of a watched import. The first line has the id. The
// following lines have progress. The last line has the outcome.
type importUpdate struct {
	ID       string           `json:"id,omitempty"`
	Progress *progressUpdate  `json:"progress,omitempty"`
	Totals   *snapshot.Totals `json:"totals,omitempty"`
	Report   *importReport    `json:"report,omitempty"`
	Error    *Error           `json:"error,omitempty"` // set with Report, if the import failed
}

// progressUpdate is a snapshot.TableProgress whose error is encoded as text.
type progressUpdate struct {
	snapshot.TableProgress
	Err string `json:",omitempty"`
}

func newProgressUpdate(p snapshot.TableProgress) *progressUpdate {
	return &progressUpdate{p, maskedText(p.Err)}
}

func (p *progressUpdate) snapshot() snapshot.TableProgress {
	p.TableProgress.Err = textError(p.Err)
	return p.TableProgress
}

// importReport is a snapshot.Report whose errors are encoded as text.
type importReport struct {
	snapshot.Report
	Tables []importReportTable
}

type importReportTable struct {
	snapshot.TableReport
	Err string `json:",omitempty"`
}

func newImportReport(r snapshot.Report) *importReport {
	all := &importReport{Report: r}
	for _, t := range r.Tables {
		all.Tables = append(all.Tables, importReportTable{t, maskedText(t.Err)})
	}
	return all
}

func (r *importReport) snapshot() snapshot.Report {
	for _, t := range r.Tables {
		t.TableReport.Err = textError(t.Err)
		r.Report.Tables = append(r.Report.Tables, t.TableReport)
	}
	return r.Report
}

// maskedText returns the text of err with secrets masked, or "" if err is nil.
func maskedText(err error) string {
	if err == nil {
		return ""
	}
	return telemetry.MaskText(err.Error())
}

// textError is the inverse of maskedText: it returns an error with the given text, or nil if the
// text is "".
func textError(text string) error {
	if text == "" {
		return nil
	}
	return errors.New(text)
}
