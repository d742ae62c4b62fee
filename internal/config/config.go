// Package config resolves flags, environment and config.toml into one immutable value per
// command. A flag takes precedence over the environment, and the environment takes precedence
// over the file. Callers pass in the command line and the environment.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Lookup returns the value of an environment variable and whether it is set, like os.LookupEnv.
type Lookup func(name string) (string, bool)

// UsageError reports an invalid value on the command line or in the environment. The program
// exits with the code for wrong usage.
type UsageError struct {
	Name string // the flag or variable: "--port", "PORT"
	Err  error
}

func (e *UsageError) Error() string { return e.Name + ": " + e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// UpdateStrategy decides when a change of a row is written to the destination.
type UpdateStrategy string

const (
	// Standard writes changes in the order of the stream.
	Standard UpdateStrategy = "standard"
	// After writes a row only if the row is newer than the row at the destination. It then
	// writes all columns of the row.
	After UpdateStrategy = "after"
)

// ParseUpdateStrategy parses the name of a strategy, ignoring case. An empty text means
// Standard.
func ParseUpdateStrategy(text string) (UpdateStrategy, error) {
	switch s := UpdateStrategy(strings.ToLower(strings.TrimSpace(text))); s {
	case "", Standard:
		return Standard, nil
	case After:
		return After, nil
	}
	return "", fmt.Errorf("the update strategy must be %q or %q", Standard, After)
}

// Heal decides which missing or incomplete tables a server imports automatically.
type Heal string

const (
	HealTables Heal = "tables" // import them, unless all tables are lost
	HealAll    Heal = "all"    // import them, even if all tables are lost
	HealOff    Heal = "off"    // import none
)

// ParseHeal parses the name of a Heal, ignoring case. An empty text means HealTables.
func ParseHeal(text string) (Heal, error) {
	switch h := Heal(strings.ToLower(strings.TrimSpace(text))); h {
	case "":
		return HealTables, nil
	case HealTables, HealAll, HealOff:
		return h, nil
	}
	return "", fmt.Errorf("want %q, %q or %q", HealTables, HealAll, HealOff)
}

// Common is the configuration of every command. Treat it as immutable.
type Common struct {
	DataDir   string // absolute path
	Verbose   bool
	Silent    bool
	Timestamp bool
	LogLabel  string
	LogFormat LogFormat
	// CPUProfile is the file to which a CPU profile of the whole run is written, or "" for no
	// profile.
	CPUProfile string
}

// ConfigFile returns the path of the configuration file.
func (c Common) ConfigFile() string { return filepath.Join(c.DataDir, FileName) }

// LogFormat is the format of log records.
type LogFormat string

const (
	AutoFormat LogFormat = "" // text on a terminal, JSON elsewhere
	TextFormat LogFormat = "text"
	JSONFormat LogFormat = "json"
)

// HQSettings is the configuration of commands that call HQ. Treat it as immutable.
type HQSettings struct {
	APIKey Secret
	APIURL string // base URL; if "", taken from the key
	// RequireTLS determines which HQ API and NATS hosts must use TLS. If RequireTLS is true, all
	// hosts must use TLS. If RequireTLS is false, only hosts that have used TLS before must use
	// TLS. If RequireTLS is nil, HQ's default hosts must also use TLS.
	RequireTLS *bool
}

// ServerSettings is the configuration of "eds server". Treat it as immutable.
type ServerSettings struct {
	Common
	HQSettings
	URL             Secret // destination URL; empty until HQ configures one
	URLGiven        bool   // URL comes from the flag, which also overrides the file at the next start
	UpdateStrategy  UpdateStrategy
	SchemaValidator string // directory of JSON Schemas, or "" for no validation

	Host string // listen address; "" means all interfaces
	Port int    // 0 means any free port

	Servers        []string // URLs of NATS servers; nil means the default
	ServerID       string   // if "", taken from the credential
	ConsumerSuffix string
	CompanyIDs     []string
	KeepLogs       bool
	Restart        bool // a new consumer starts at the beginning of the stream instead of its end
	NoRestart      bool // the parent process does not restart the worker
	RenewInterval  time.Duration
	Heal           Heal
	// If BackfillNewTables is true, tables that are new at HQ are imported. If it is false, only
	// changes of such tables are followed.
	BackfillNewTables bool

	// Limits for changes that were received but not applied yet. A zero value means the default.
	MaxAckPending     int
	MaxPendingBuffer  int
	MinPendingLatency time.Duration
	MaxPendingLatency time.Duration
}

// ImportSettings is the configuration of "eds import". Treat it as immutable.
type ImportSettings struct {
	Common
	HQSettings
	URL             Secret
	UpdateStrategy  UpdateStrategy
	SchemaValidator string

	JobID        string
	Dir          string // directory with export files to load; if "", they are downloaded
	DownloadDir  string // directory for downloads; "" means the data directory
	DryRun       bool
	NoConfirm    bool
	NoCleanup    bool
	NoDelete     bool
	AllowEmpty   bool
	Strict       bool
	SchemaOnly   bool
	ValidateOnly bool
	TimeOffset   time.Time // only rows changed since then; zero means all rows
	Parallel     int       // number of tables loaded at a time; 1 with --single
	Single       bool
	Only         []string // names of tables; nil means all
	CompanyIDs   []string
	LocationIDs  []string
}

// DefaultPort is the default TCP port of the health and metrics endpoints.
const DefaultPort = 8080

func parsePort(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, errors.New("want a port, a number from 0 to 65535")
	}
	return int(n), nil
}

func parseFormat(text string) (LogFormat, error) {
	switch f := LogFormat(strings.ToLower(text)); f {
	case AutoFormat, TextFormat, JSONFormat:
		return f, nil
	}
	return "", fmt.Errorf("want %q or %q", TextFormat, JSONFormat)
}

// ParseAPIURL checks the base URL of HQ's API and returns it without a final slash. The error
// contains no part of the URL.
func ParseAPIURL(raw string) (string, error) {
	raw = strings.TrimRight(strings.TrimSpace(raw), "/")
	if raw == "" {
		return "", nil
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return "", errors.New("want a URL like https://api.shopmonkey.cloud")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("want a URL without user name, query or fragment")
	}
	return raw, nil
}

// parseServers checks the URLs of NATS servers. It adds nats:// to a URL without a scheme.
func parseServers(raw []string) ([]string, error) {
	var servers []string
	for _, s := range raw {
		if !strings.Contains(s, "://") {
			s = "nats://" + s
		}
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" {
			return nil, errors.New("want NATS servers like nats://host:4222, separated by commas")
		}
		if !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			return nil, errors.New("a NATS server's URL begins with nats://, tls://, ws:// or wss://")
		}
		servers = append(servers, s)
	}
	return servers, nil
}

// checkToken returns an error if text cannot be part of a NATS subject or of a consumer's name.
func checkToken(text string) error {
	bad := func(r rune) bool {
		return strings.ContainsRune(`.*>/\`, r) || unicode.IsSpace(r) || unicode.IsControl(r)
	}
	if len(text) > 128 || strings.ContainsFunc(text, bad) {
		return errors.New(`want at most 128 characters, none of them . * > / \ or a space`)
	}
	return nil
}

// checkIDs checks ids that become tokens of a subject. "*" means every id.
func checkIDs(ids []string) error {
	for _, id := range ids {
		if id == "*" {
			continue
		}
		if err := checkToken(id); err != nil {
			return fmt.Errorf("an id is malformed: %w", err)
		}
	}
	return nil
}

var tableName = regexp.MustCompile(`^[a-z0-9_]+$`)

func checkTables(tables []string) error {
	for _, t := range tables {
		if !tableName.MatchString(t) {
			return fmt.Errorf("%.60q is not a table; names have lower-case letters, digits and _", t)
		}
	}
	return nil
}

// checkHost checks the address to listen on.
func checkHost(host string) error {
	if host == "" || net.ParseIP(strings.Trim(host, "[]")) != nil {
		return nil
	}
	if strings.ContainsAny(host, ":/@ []") {
		return errors.New("want a host name or an IP address without a port, like 127.0.0.1; the port has its own flag, --port")
	}
	return nil
}

// list splits the values at commas and trims the parts. It drops empty and repeated parts.
func list(raw []string) []string {
	var out []string
	for _, one := range raw {
		for part := range strings.SplitSeq(one, ",") {
			if part = strings.TrimSpace(part); part != "" && !slices.Contains(out, part) {
				out = append(out, part)
			}
		}
	}
	return out
}

// first returns the first value that is not the zero value.
func first[T comparable](values ...T) T {
	var zero T
	for _, v := range values {
		if v != zero {
			return v
		}
	}
	return zero
}
