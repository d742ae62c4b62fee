package sink

import (
	"net/url"
	"regexp"
	"strings"
)

// secretName matches names of options and headers whose values are always treated as secret, even
// if the option is declared as harmless.
var secretName = regexp.MustCompile(`(?i)(pass|secret|token|key|credential|sas)`)

// SecretOption reports whether the name of an option suggests that its value is secret.
func SecretOption(name string) bool { return secretName.MatchString(name) }

// MaskURL returns the URL raw in a form that logs and HQ may show. It replaces the password, and
// the value of every option that d does not declare as harmless, by ***. Placeholders stay,
// because they do not reveal a value.
func MaskURL(raw string, d Driver) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return "***"
	}
	head, query, hasQuery := strings.Cut(rest, "?")
	out := scheme + "://" + maskHead(head)
	if hasQuery {
		out += "?" + maskPairs(query, "&", d.shows)
	}
	return out
}

// maskHead masks the part of a URL between the scheme and the query. A password may contain an
// unescaped slash, so the last @ ends the credentials.
func maskHead(head string) string {
	if at := strings.LastIndexByte(head, '@'); at >= 0 {
		user, _, hasPassword := strings.Cut(head[:at], ":")
		if hasPassword {
			user += ":***"
		}
		return user + head[at:]
	}
	plain := separators.Replace(head)
	masked := maskPairs(plain, ";", func(name, _ string) bool { return !SecretOption(name) })
	if masked == plain {
		return head
	}
	return masked
}

// separators unescapes the characters that separate the pairs of a connection string.
var separators = strings.NewReplacer("%3B", ";", "%3b", ";", "%3D", "=", "%3d", "=")

// maskPairs masks the values of name=value pairs. It does not mask placeholders. It also does not
// mask a value if the callback shows returns true for it.
func maskPairs(text, separator string, shows func(name, value string) bool) string {
	pairs := strings.Split(text, separator)
	for i, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if ok && (value == "" || placeholder.FindString(value) != value) && !shows(name, value) {
			pairs[i] = name + "=***"
		}
	}
	return strings.Join(pairs, separator)
}

// shows reports whether a log may show an option of a URL. Its arguments are escaped, as in the URL.
func (d *Driver) shows(name, value string) bool {
	name, nameErr := url.QueryUnescape(name)
	value, valueErr := url.QueryUnescape(value)
	if nameErr != nil || valueErr != nil || SecretOption(name) {
		return false
	}
	own := strings.TrimPrefix(name, d.OptionPrefix)
	for i := range d.Options {
		if o := &d.Options[i]; strings.EqualFold(o.Name, own) {
			return o.shows(value)
		}
	}
	return d.OptionPrefix != "" && own == name // an option of the endpoint
}

func (o *Option) shows(value string) bool {
	if o.Harmless || o.Type == nil || !o.Type.harmless() {
		return o.Harmless
	}
	_, valid := o.Type.parse(value)
	return valid
}
