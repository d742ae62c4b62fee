package hq

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// LatestSchemas returns the newest Schema of every object, by object name, as
// HQ's JSON text.
func (c *Client) LatestSchemas(ctx context.Context) (map[string]json.RawMessage, error) {
	const operation = "fetch the latest schemas"
	a, err := c.exchange(ctx, operation, http.MethodGet, "/v3/schema", nil)
	if refused, ok := errors.AsType[*Error](err); ok && refused.Message == "" && refused.definite() && !errors.As(err, new(*Unauthorized)) {
		return nil, fault.Mark(fault.Transient, err) // HQ has schemas: a proxy answers in its place
	}
	if err != nil {
		return nil, err
	}
	text, err := a.bare()
	if err != nil {
		return nil, err
	}
	var schemas map[string]json.RawMessage
	if err := json.Unmarshal(text, &schemas); err != nil {
		return nil, a.undecodable(err)
	}
	return schemas, nil
}

// Schema returns one version of one object's schema, as HQ's JSON text. If HQ
// denies it the error is poison, as no event of that version can be understood.
// An API key that HQ refuses altogether denies nothing: that error is fatal.
func (c *Client) Schema(ctx context.Context, object, modelVersion string) (json.RawMessage, error) {
	a, err := c.exchange(ctx, "fetch a schema version", http.MethodGet, "/v3/schema/"+url.PathEscape(object)+"/"+url.PathEscape(modelVersion), nil)
	var text json.RawMessage
	if err == nil {
		text, err = a.bare()
	}
	refused, ok := errors.AsType[*Error](err)
	if !ok || !refused.definite() {
		return text, err
	}
	// A 403 may be about the key, and one without a message may be a proxy's, whatever
	// it asks for. HQ denies the version only if it answers otherwise.
	if refused.Status == http.StatusForbidden || refused.Message == "" {
		if _, err := c.LatestSchemas(ctx); err != nil {
			return nil, err
		}
	}
	return nil, fault.Mark(fault.Poison, refused)
}

// ExportRequest says what a snapshot is to hold; what is left empty is not limited.
type ExportRequest struct {
	TimeOffset  int64    `json:"timeOffset,omitempty"` // unix milliseconds
	CompanyIDs  []string `json:"companyIds,omitempty"`
	LocationIDs []string `json:"locationIds,omitempty"`
	Tables      []string `json:"tables,omitempty"`
}

// The values of ExportTable.Status.
const (
	ExportPending   = "Pending"
	ExportCompleted = "Completed"
	ExportFailed    = "Failed"
)

// Export is how far an export job is.
type Export struct {
	Completed bool                   `json:"completed"`
	Tables    map[string]ExportTable `json:"tables"`
}

// ExportTable is how far the export of one table is.
type ExportTable struct {
	Status string   `json:"status"`
	Error  string   `json:"error"`
	URLs   []string `json:"urls"`   // presigned, and so secrets
	Cursor string   `json:"cursor"` // unix nanoseconds
}

// StartExport starts the export of a snapshot and returns the job's id.
func (c *Client) StartExport(ctx context.Context, r ExportRequest) (string, error) {
	var data struct {
		JobID string `json:"jobId"`
	}
	const operation = "start an export"
	err := c.call(ctx, operation, http.MethodPost, "/v3/export/bulk", r, &data)
	if err == nil && data.JobID == "" {
		err = errors.New(operation + ": hq's answer has no job id")
	}
	return data.JobID, err
}

// ExportStatus asks how far a job is. Its URLs are fresh. A job that HQ does
// not know is an error for which NotFound reports true.
func (c *Client) ExportStatus(ctx context.Context, job string) (Export, error) {
	var e Export
	err := c.call(ctx, "ask for the state of the export", http.MethodGet, "/v3/export/bulk/"+url.PathEscape(job), nil, &e)
	return e, err
}
