package devhq

import (
	"crypto/rand"
	"errors"
	"net/http"
	"strings"
	"time"
)

// EnrolmentCode is a one-time enrolment code, and a record of its use.
type EnrolmentCode struct {
	Code      string    `json:"code"`
	ServerID  string    `json:"serverId"`
	Companies []string  `json:"companyIds,omitempty"` // companies that the server may read; none means all
	Created   time.Time `json:"created"`
	Used      time.Time `json:"used,omitzero"`
}

// codePrefix is the first letter of the enrolment codes that an HQ for development issues. For a
// code with this letter, eds uses the HQ at http://localhost:3101, unless --api-url is set.
const codePrefix = "L"

// NewEnrolment returns a code that one server can use, one time only, to enrol. The server may read
// the given companies, or all companies if none are given.
func (h *HQ) NewEnrolment(companies ...string) (code string, err error) {
	e := EnrolmentCode{
		Code: codePrefix + rand.Text()[:9], ServerID: newID(), Companies: companies, Created: time.Now().UTC(),
	}
	return e.Code, put(h.store, bucketEnrolments, e.Code, e)
}

// newID returns a random id that is valid in a subject, a file name and a consumer name.
func newID() string { return strings.ToLower(rand.Text()) }

func (h *HQ) enroll(r *http.Request) (any, error) {
	e, err := update(h.store, bucketEnrolments, r.PathValue("code"), func(e *EnrolmentCode) error {
		if !e.Used.IsZero() {
			return errNotFound
		}
		e.Used = time.Now().UTC()
		return nil
	})
	if errors.Is(err, errNotFound) {
		return nil, httpErrorf(http.StatusNotFound, "the enrolment code is unknown or was used")
	}
	if err != nil {
		return nil, err
	}
	h.logger.Info("a server enrolled", "serverId", e.ServerID)
	return struct {
		Token    string `json:"token"`
		ServerID string `json:"serverId"`
	}{h.APIKey(KeyOptions{ServerID: e.ServerID, Companies: e.Companies}), e.ServerID}, nil
}

// APIKey returns an API key of this HQ. The issuer of the key is the URL of the API.
func (h *HQ) APIKey(o KeyOptions) string { return h.keys.issue(h.APIURL(), o, time.Now()) }
