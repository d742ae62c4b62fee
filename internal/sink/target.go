package sink

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// Lookup finds the value of an environment variable, as os.LookupEnv does.
type Lookup func(name string) (string, bool)

var (
	placeholder = regexp.MustCompile(`\$\{([^{}]*)\}`)
	variable    = regexp.MustCompile(`^[A-Z_][A-Z0-9_]*$`)
)

// Literal escapes raw so that ParseURL does not expand any placeholder in it. URLs that do not
// come from the operator are parsed and stored in this form.
func Literal(raw string) string { return strings.ReplaceAll(raw, "${", "%24{") }

// ParseURL parses a destination's URL. It replaces ${NAME} with an environment variable, and
// ${file:/path} with the content of a file, without a final line break. It escapes both as
// needed. Errors are fatal, or fault.Refused if a file cannot be read. They contain no part of
// the URL except its scheme and the names in its placeholders.
func ParseURL(raw string, lookup Lookup) (*url.URL, error) {
	expanded, err := expand(strings.TrimSpace(raw), lookup)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(expanded)
	if err == nil && u.Port() != "" {
		if n, e := strconv.ParseUint(u.Port(), 10, 16); e != nil || n == 0 {
			err = errors.New(notPort)
		}
	}
	if err != nil {
		// The text of err would quote the URL.
		cause := err
		if e := new(url.Error); errors.As(err, &e) {
			cause = e.Err
		}
		why := cause.Error()
		switch e := url.EscapeError(""); {
		case errors.As(cause, &e):
			why = "a % is not followed by two hexadecimal digits"
		case strings.Contains(why, "port"):
			why = notPort
		case strings.Contains(why, "userinfo"):
			why = "the user name or password has a character that must be escaped"
		default:
			why = "it is not of the form scheme://user:password@host:port/path?option=value"
		}
		return nil, fault.Mark(fault.Fatal, fmt.Errorf("parse the %s url: %s; "+
			"write @ as %%40, / as %%2F, %% as %%25, : as %%3A, # as %%23 and ? as %%3F in names and passwords, "+
			"or put the password in the environment and write ${NAME}", Scheme(raw), why))
	}
	if u.Scheme == "" {
		return nil, fatalf("the destination's url has no scheme; it should begin like postgres:// or file://")
	}
	return u, nil
}

const notPort = "the text after the host's colon is not a port, a number from 1 to 65535"

func expand(raw string, lookup Lookup) (string, error) {
	_, query, _ := strings.Cut(raw, "?")
	for pair := range strings.SplitSeq(query, "&") {
		// Errors name the option.
		if name, _, _ := strings.Cut(pair, "="); placeholder.MatchString(name) {
			return "", fatalf("the destination's url has a ${...} in the name of an option; placeholders work in values only")
		}
	}
	var failed error
	out := placeholder.ReplaceAllStringFunc(raw, func(match string) string {
		name := match[2 : len(match)-1]
		value, err := expansion(name, lookup)
		if err != nil && failed == nil {
			failed = err
		}
		return strings.ReplaceAll(url.QueryEscape(value), "+", "%20")
	})
	return out, failed
}

func expansion(name string, lookup Lookup) (string, error) {
	if path, ok := strings.CutPrefix(name, "file:"); ok {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fault.Mark(fault.Refused, fmt.Errorf("read a secret that the destination's url names: %w", err))
		}
		return strings.TrimRight(string(text), "\r\n"), nil
	}
	if value, ok := lookup(name); ok {
		return value, nil
	}
	if !variable.MatchString(name) { // part of a password, say
		return "", fatalf("the destination's url has a ${...} that names no environment variable that is set; " +
			"write $ as %%24 if it is not a placeholder")
	}
	return "", fatalf("the destination's url names the environment variable %q, which is not set", name)
}

func fatalf(format string, args ...any) error {
	return fault.Mark(fault.Fatal, fmt.Errorf(format, args...))
}

// WithoutFiles returns raw without its ${file:...} placeholders.
func WithoutFiles(raw string) string {
	return placeholder.ReplaceAllStringFunc(raw, func(match string) string {
		if strings.HasPrefix(match, "${file:") {
			return ""
		}
		return match
	})
}

// Scheme returns the scheme of a URL, which may be malformed. It returns "destination's" if there
// is no scheme, for use in messages.
func Scheme(raw string) string {
	scheme, _, ok := strings.Cut(strings.TrimSpace(raw), "://")
	if !ok || len(scheme) > 32 {
		return "destination's"
	}
	return strings.ToLower(scheme)
}

// CheckForeign returns an error if target would send a secret of this machine to the destination.
// It is called for URLs that do not come from the operator.
func CheckForeign(d Driver, target *url.URL) error {
	if d.Borrows == nil {
		return nil
	}
	if what := d.Borrows(target); what != "" {
		return fatalf("%s sends a secret of this machine to the destination, "+
			"which only the operator may configure: with --url, or url in config.toml", what)
	}
	return nil
}

// FirstOption returns the first of the names that is an option of target, ignoring case, as
// "option <name>". It returns "" if target has none of them.
func FirstOption(target *url.URL, names ...string) string {
	query := target.Query()
	for _, name := range names {
		for given := range query {
			if strings.EqualFold(given, name) {
				return "option " + name
			}
		}
	}
	return ""
}

// Nearest returns the candidate that needs the fewest edits to become name, or "" if no candidate
// is close.
func Nearest(name string, candidates []string) string {
	best, least := "", 1+len(name)/3
	for _, c := range candidates {
		if d := distance(strings.ToLower(name), strings.ToLower(c)); d <= least {
			best, least = c, d-1
		}
	}
	return best
}

// distance returns the Levenshtein distance of a and b, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
