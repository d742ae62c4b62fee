package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/shopmonkeyus/eds/internal/durable"
)

// FileName is the name of the configuration file in the data directory.
const FileName = "config.toml"

// File is the content of config.toml. Fields whose keys are not in the file are zero. Write
// preserves unknown keys.
type File struct {
	Token          Secret // the HQ key
	ServerID       string
	URL            Secret // of the destination
	UpdateStrategy UpdateStrategy
	KeepLogs       bool
	// Only the operator sets these keys. A field is nil or "" if the file does not have its
	// key.
	RequireTLS        *bool
	Heal              Heal
	BackfillNewTables *bool

	all map[string]any // the value of every key of the file
	raw string         // the text of the file
}

// Names of the known keys.
const (
	keyToken          = "token"
	keyServerID       = "server_id"
	keyURL            = "url"
	keyUpdateStrategy = "update_strategy"
	keyKeepLogs       = "keep_logs"
	keyRequireTLS     = "require_tls"
	keyHeal           = "heal"
	keyBackfill       = "backfill_new_tables"
)

// known lists the keys that this version reads.
var known = []string{keyToken, keyServerID, keyURL, keyUpdateStrategy, keyKeepLogs, keyRequireTLS, keyHeal, keyBackfill}

// ReadFile reads the configuration file at path. If the file does not exist, the result f is empty.
// The warnings are for the operator, and do not make the file invalid.
func ReadFile(path string) (f File, warnings []string, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return File{}, nil, nil
	}
	if err != nil {
		return File{}, nil, fmt.Errorf("read the configuration: %w", err)
	}
	if f, err = ParseFile(string(text)); err != nil {
		return File{}, nil, fmt.Errorf("read the configuration %s: %w", path, err)
	}
	if info, err := os.Stat(path); err == nil && tooOpen(info.Mode()) {
		const format = "%s contains secrets and other users of this machine can read it (mode %04o); run: chmod 600 %s"
		warnings = append(warnings, fmt.Sprintf(format, path, info.Mode().Perm(), path))
	}
	return f, warnings, nil
}

// tooOpen reports whether the permission bits give other users access to a file. Windows has no
// such bits, so tooOpen returns false there.
func tooOpen(mode fs.FileMode) bool { return runtime.GOOS != "windows" && mode.Perm()&0o077 != 0 }

// ParseFile parses the text of a configuration file. Errors name the line and a remedy. They
// contain no part of the text, because it may be secret.
func ParseFile(text string) (File, error) {
	f := File{raw: text}
	if _, err := toml.Decode(text, &f.all); err != nil {
		return File{}, syntaxError(err)
	}
	token, url := "", ""
	strategy, heal, requireTLS, backfill := "", "", false, false
	for _, err := range []error{
		take(f.all, text, keyToken, &token),
		take(f.all, text, keyServerID, &f.ServerID),
		take(f.all, text, keyURL, &url),
		take(f.all, text, keyUpdateStrategy, &strategy),
		take(f.all, text, keyKeepLogs, &f.KeepLogs),
		take(f.all, text, keyRequireTLS, &requireTLS),
		take(f.all, text, keyHeal, &heal),
		take(f.all, text, keyBackfill, &backfill),
	} {
		if err != nil {
			return File{}, err
		}
	}
	if _, ok := f.all[keyRequireTLS]; ok {
		f.RequireTLS = &requireTLS
	}
	if _, ok := f.all[keyBackfill]; ok {
		f.BackfillNewTables = &backfill
	}
	f.Token, f.URL = NewSecret(strings.TrimSpace(token)), NewSecret(strings.TrimSpace(url))
	var err error
	if f.UpdateStrategy, err = ParseUpdateStrategy(strategy); err != nil {
		return File{}, fmt.Errorf("line %d: %s: %w", lineOf(text, keyUpdateStrategy), keyUpdateStrategy, err)
	}
	if _, ok := f.all[keyHeal]; ok {
		if f.Heal, err = ParseHeal(heal); err != nil {
			return File{}, fmt.Errorf("line %d: %s: %w", lineOf(text, keyHeal), keyHeal, err)
		}
	}
	return f, nil
}

func syntaxError(err error) error {
	var e toml.ParseError
	if !errors.As(err, &e) {
		return errors.New("it is not valid TOML; correct it, or move it away and run: eds enroll")
	}
	after := ""
	if slices.Contains(known, e.LastKey) {
		after = fmt.Sprintf(" (at or after the key %s)", e.LastKey)
	}
	return fmt.Errorf("line %d is not valid TOML%s; lines look like name = \"text\"; correct it, or move the file away and run: eds enroll",
		e.Position.Line, after)
}

// take copies the value of key to dst. If the key is missing, dst is unchanged. A boolean may
// be written as the text "true" or "false".
func take[T string | bool](all map[string]any, text, key string, dst *T) error {
	value, ok := all[key]
	if !ok {
		return nil
	}
	if typed, ok := value.(T); ok {
		*dst = typed
		return nil
	}
	want := "text in double quotes"
	if flag, ok := any(dst).(*bool); ok {
		if s, ok := value.(string); ok && (s == "true" || s == "false") {
			*flag = s == "true"
			return nil
		}
		want = "true or false"
	}
	return fmt.Errorf("line %d: the value of %s must be %s", lineOf(text, key), key, want)
}

// lineOf returns the number of the line that sets the top-level key, counted from 1, or 0 if
// there is no such line.
func lineOf(text, key string) int {
	for i, line := range strings.Split(text, "\n") {
		if assigns(line, key) {
			return i + 1
		}
	}
	return 0
}

// assigns reports whether a line of TOML sets the given key.
func assigns(line, key string) bool {
	name, _, ok := strings.Cut(line, "=")
	name = strings.TrimSpace(name)
	return ok && (name == key || name == `"`+key+`"` || name == "'"+key+"'")
}

// Update reads the file at path, calls the callback to change the content, and writes the file.
func Update(path string, change func(*File)) error {
	f, _, err := ReadFile(path)
	if err != nil {
		return err
	}
	change(&f)
	return f.Write(path)
}

// Write replaces the file at path atomically and durably. Only the file's owner can read it.
// Comments, the order of lines and unknown keys of the original text are preserved.
func (f File) Write(path string) error {
	next, err := prepare(path)
	if err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	defer next.Discard()
	return f.put(path, next)
}

// put writes f to the given temporary file, and replaces the file at path with the temporary
// file.
func (f File) put(path string, next *durable.Replacement) error {
	text, err := f.encode()
	if err != nil {
		return fmt.Errorf("write the configuration %s: %w", path, err)
	}
	err = next.Put(func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
	if err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return nil
}

// values returns every key with its value. Known keys have the values of f's fields. Other keys
// have the values of the original text.
func (f File) values() map[string]any {
	all := maps.Clone(f.all)
	if all == nil {
		all = make(map[string]any)
	}
	set := func(key string, value any, present bool) {
		if present {
			all[key] = value
		} else {
			delete(all, key)
		}
	}
	set(keyToken, f.Token.Reveal(), !f.Token.IsZero())
	set(keyServerID, f.ServerID, f.ServerID != "")
	set(keyURL, f.URL.Reveal(), !f.URL.IsZero())
	_, had := f.all[keyUpdateStrategy]
	set(keyUpdateStrategy, string(f.UpdateStrategy), f.UpdateStrategy != "" && (had || f.UpdateStrategy != Standard))
	_, had = f.all[keyKeepLogs]
	set(keyKeepLogs, f.KeepLogs, had || f.KeepLogs)
	return all
}

// encode returns the text of the file. Normally that is the original text with the changed
// lines replaced. If the edited text would decode to other values, encode returns a new text.
func (f File) encode() ([]byte, error) {
	want := f.values()
	if edited := f.edit(want); decodesTo(edited, want) {
		return []byte(edited), nil
	}
	var b bytes.Buffer
	if err := toml.NewEncoder(&b).Encode(want); err != nil {
		return nil, err
	}
	if !decodesTo(b.String(), want) {
		return nil, errors.New("a value has bytes that TOML cannot represent")
	}
	return b.Bytes(), nil
}

// decodesTo reports whether text decodes to the wanted values.
func decodesTo(text string, want map[string]any) bool {
	got := make(map[string]any)
	_, err := toml.Decode(text, &got)
	return err == nil && reflect.DeepEqual(got, want)
}

// edit returns a copy of the original text, in which lines of known keys are replaced, added and
// removed so that the keys have the wanted values.
func (f File) edit(want map[string]any) string {
	lines := strings.SplitAfter(f.raw, "\n")
	for _, key := range []string{keyToken, keyServerID, keyURL, keyUpdateStrategy, keyKeepLogs} {
		value, wanted := want[key]
		old, had := f.all[key]
		if wanted == had && reflect.DeepEqual(value, old) {
			continue
		}
		line := ""
		if wanted {
			var b bytes.Buffer
			if err := toml.NewEncoder(&b).Encode(map[string]any{key: value}); err != nil {
				return "" // this text decodes to no values, so encode creates a new text
			}
			line = b.String()
		}
		at := slices.IndexFunc(lines, func(l string) bool { return assigns(l, key) })
		if had && at >= 0 {
			lines[at] = line
		} else {
			lines = slices.Insert(lines, firstTable(lines), line)
		}
	}
	return strings.Join(lines, "")
}

// firstTable returns the index of the line at which a new top-level key can be inserted. That
// line is the header of the first table, or the first of the comments and blank lines above the
// header.
func firstTable(lines []string) int {
	at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(strings.TrimSpace(l), "[") })
	if at < 0 {
		if last := len(lines) - 1; lines[last] != "" && !strings.HasSuffix(lines[last], "\n") {
			lines[last] += "\n"
		}
		return len(lines)
	}
	for at > 0 && (strings.TrimSpace(lines[at-1]) == "" || strings.HasPrefix(strings.TrimSpace(lines[at-1]), "#")) {
		at--
	}
	return at
}

// prepare creates a temporary file that can replace the file at path. If path is a symbolic link,
// the temporary file is for the link's target. If the directory does not exist, it is created.
func prepare(path string) (*durable.Replacement, error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return durable.Prepare(path, "."+filepath.Base(path)+".*")
}

// reserved is the number of bytes of disk space that Reserve reserves beyond the size of the
// file. It is many times the size of a key.
const reserved = 64 << 10

// Reservation is a configuration file with reserved disk space. Reserve has checked that the
// file can be written.
type Reservation struct {
	path string
	next *durable.Replacement
}

// Reserve checks that the file at path can be written, for a caller that is about to receive a
// value that must not be lost. It reserves disk space and, if the file exists, replaces the file
// with an identical copy. The caller must call Release.
func Reserve(path string) (*Reservation, error) {
	f, _, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	next, err := prepare(path)
	if err == nil {
		if err = next.Reserve(len(f.raw) + reserved); err != nil {
			next.Discard()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	r := &Reservation{path, next}
	if _, err := os.Stat(path); err == nil {
		if err := f.Write(path); err != nil {
			r.Release()
			return nil, err
		}
	}
	return r, nil
}

// Update is like the function Update, but writes the reserved file and uses the reserved disk
// space. It can be called only once.
func (r *Reservation) Update(change func(*File)) error {
	f, _, err := ReadFile(r.path)
	if err != nil {
		return err
	}
	change(&f)
	return f.put(r.path, r.next)
}

// Release frees the reserved disk space.
func (r *Reservation) Release() { r.next.Discard() }
