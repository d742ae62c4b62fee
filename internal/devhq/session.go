package devhq

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Session is one run of a server, from its start until its end.
type Session struct {
	ID        string          `json:"id"`
	ServerID  string          `json:"serverId"`
	Companies []string        `json:"companyIds"`
	Version   string          `json:"version"`
	Hostname  string          `json:"hostname"`
	IPAddress string          `json:"ipAddress"`
	MachineID string          `json:"machineId"`
	OSInfo    json.RawMessage `json:"osinfo,omitempty"`
	Driver    *SessionDriver  `json:"driver,omitempty"`
	User      string          `json:"user"` // public key of the session's NATS user
	Started   time.Time       `json:"started"`
	Ended     time.Time       `json:"ended,omitzero"`
	Errored   bool            `json:"errored"`
	Lost      bool            `json:"lost"` // the session was ended without a request from the server
}

// SessionDriver is the destination that a server reports to HQ.
type SessionDriver struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	URL         string `json:"url"`
}

// Sessions returns all sessions, oldest first.
func (h *HQ) Sessions() ([]Session, error) {
	sessions, err := all[Session](h.store, bucketSessions)
	slices.SortFunc(sessions, func(a, b Session) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID))
	})
	return sessions, err
}

type sessionRequest struct {
	Version    string          `json:"version"`
	Hostname   string          `json:"hostname"`
	IPAddress  string          `json:"ipAddress"`
	MachineID  string          `json:"machineId"`
	OSInfo     json.RawMessage `json:"osinfo"`
	Driver     *SessionDriver  `json:"driver"`
	ServerID   string          `json:"serverId"`
	CompanyIDs []string        `json:"companyIds"`
}

type sessionResponse struct {
	SessionID  string `json:"sessionId"`
	Credential string `json:"credential"`
}

func (h *HQ) startSession(r *http.Request) (any, error) {
	claims, err := h.authorize(r)
	if err != nil {
		return nil, err
	}
	var body sessionRequest
	if err := decodeBody(r, &body); err != nil {
		return nil, err
	}
	s := Session{
		ID: newID(), ServerID: cmp.Or(body.ServerID, claims.Subject), Version: body.Version, Hostname: body.Hostname,
		IPAddress: body.IPAddress, MachineID: body.MachineID, OSInfo: body.OSInfo, Driver: body.Driver, Started: time.Now().UTC(),
	}
	if s.ServerID == "" || strings.ContainsAny(s.ServerID, " \t\r\n.*>/\\") {
		return nil, httpErrorf(http.StatusBadRequest, "the server id is empty or cannot be part of a consumer's name")
	}
	if s.Companies, err = h.permitted(claims, body.CompanyIDs); err != nil {
		return nil, err
	}

	h.starting.Lock()
	defer h.starting.Unlock()
	if err := h.displace(s.ServerID); err != nil {
		return nil, err
	}
	u, err := h.authority.sessionUser(s.ServerID, s.ID, s.Companies, h.options.CredentialLife)
	if err != nil {
		return nil, err
	}
	creds, err := u.creds()
	if err != nil {
		return nil, err
	}
	s.User = u.publicKey
	if err := put(h.store, bucketSessions, s.ID, s); err != nil {
		return nil, err
	}
	h.logger.Info("a session started", "serverId", s.ServerID, "sessionId", s.ID, "version", s.Version)
	return sessionResponse{s.ID, base64.StdEncoding.EncodeToString(creds)}, nil
}

// permitted returns the companies that a session or export may read. If the request names no
// companies, or names "*", permitted returns all companies that the API key permits. If the request
// names a company that the API key does not permit, the result is an error.
func (h *HQ) permitted(claims keyClaims, requested []string) ([]string, error) {
	allowed := claims.Companies
	if len(allowed) == 0 {
		allowed = h.shop.Companies()
	}
	if len(requested) == 0 || slices.Contains(requested, "*") {
		return allowed, nil
	}
	for _, company := range requested {
		if !slices.Contains(allowed, company) {
			return nil, httpErrorf(http.StatusForbidden, "the API key may not read company %q", company)
		}
	}
	return requested, nil
}

// displace ends the old sessions of a server. If one of these sessions may still be running,
// displace returns an error.
func (h *HQ) displace(serverID string) error {
	sessions, err := h.Sessions()
	if err != nil {
		return err
	}
	for _, s := range sessions {
		if s.ServerID != serverID || !s.Ended.IsZero() {
			continue
		}
		alive, err := h.alive(s)
		if err != nil {
			return err
		}
		if alive {
			return httpErrorf(http.StatusConflict, "another server with the id %q is running", serverID)
		}
		_, err = update(h.store, bucketSessions, s.ID, func(s *Session) error {
			s.Ended, s.Lost = time.Now().UTC(), true
			return nil
		})
		if err != nil {
			return err
		}
		h.logger.Info("a session was lost", "serverId", serverID, "sessionId", s.ID)
	}
	return nil
}

// alive reports whether the server of the session s may still be running. It is called only for
// sessions that have not ended. A session is alive while it has a connection. It also counts as
// alive for SessionGrace after the last connection, after the start of the session, and after the
// last start of NATS. While NATS is stopped, every session counts as alive.
func (h *HQ) alive(s Session) (bool, error) {
	last, err := h.broker.lastSeen(s.User)
	if errors.Is(err, errBrokerDown) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	for _, t := range []time.Time{s.Started, h.broker.upSince()} {
		if t.After(last) {
			last = t
		}
	}
	return time.Since(last) < h.options.SessionGrace, nil
}

func (h *HQ) endSession(r *http.Request) (any, error) {
	if _, err := h.authorize(r); err != nil {
		return nil, err
	}
	var body struct {
		Errored bool `json:"errored"`
	}
	if err := decodeBody(r, &body); err != nil {
		return nil, err
	}
	s, err := update(h.store, bucketSessions, r.PathValue("session"), func(s *Session) error {
		if s.Ended.IsZero() || s.Lost { // otherwise the session has ended already, and the request is a repetition
			s.Ended, s.Errored, s.Lost = time.Now().UTC(), body.Errored, false
		}
		return nil
	})
	if errors.Is(err, errNotFound) {
		return nil, httpErrorf(http.StatusNotFound, "there is no session %q", r.PathValue("session"))
	}
	if err != nil {
		return nil, err
	}
	h.logger.Info("a session ended", "serverId", s.ServerID, "sessionId", s.ID, "errored", s.Errored)
	return struct {
		URL      string `json:"url"`
		ErrorURL string `json:"errorUrl"`
	}{h.logURL(s.ID, "log"), h.logURL(s.ID, "error")}, nil
}
