package snapshot

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

const (
	exportSuffix = ".ndjson.gz"
	// exportNameForm is the form of the names of export files.
	exportNameForm = "<33 digits>-<hash>-<n>-<n>-<8 digits>-<table>-<schema id>" + exportSuffix
)

// ExportName is the parsed name of an export file. The name has the form that CockroachDB's
// changefeeds use:
//
//	<33 digits>-<hash>-<n>-<n>-<8 digits>-<table>-<schema id>.ndjson.gz
type ExportName struct {
	Clock  cdc.Timestamp // the file contains no later change
	Unique string        // "<hash>-<n>-<n>-<8 digits>"
	Table  string
	Schema string // id of the table's schema at the source
}

// ParseExportName parses the name of an export file, without its directory. The 33 digits are
// YYYYMMDDHHMMSS in UTC, nine digits of nanoseconds, and ten digits of the logical clock.
func ParseExportName(name string) (ExportName, error) {
	f, err := parseExportName(name)
	if err != nil {
		return ExportName{}, fmt.Errorf("the name of export file %.200q: %w", name, err)
	}
	return f, nil
}

func parseExportName(name string) (ExportName, error) {
	stem, ok := strings.CutSuffix(name, exportSuffix)
	if !ok {
		return ExportName{}, errors.New("does not end in " + exportSuffix)
	}
	parts := strings.Split(stem, "-")
	if len(parts) != 7 {
		return ExportName{}, fmt.Errorf("has %d parts with a dash between them, not 7", len(parts))
	}
	clock, err := parseExportClock(parts[0])
	if err != nil {
		return ExportName{}, err
	}
	switch {
	case !consists(parts[1], isAlphanumeric):
		return ExportName{}, errors.New("has no hash after its clock")
	case !consists(parts[2], isDigit) || !consists(parts[3], isDigit):
		return ExportName{}, errors.New("has no two numbers after its hash")
	case len(parts[4]) != 8 || !consists(parts[4], isDigit):
		return ExportName{}, errors.New("has no eight digits before its table")
	case !consists(parts[5], isTableName):
		return ExportName{}, errors.New("has no table, of a-z, 0-9 and _")
	case !consists(parts[6], isAlphanumeric):
		return ExportName{}, errors.New("has no schema id after its table")
	}
	return ExportName{Clock: clock, Unique: strings.Join(parts[1:5], "-"), Table: parts[5], Schema: parts[6]}, nil
}

// Name returns the file name. It is the inverse of ParseExportName.
func (f ExportName) Name() string {
	at := f.Clock.Time()
	return fmt.Sprintf("%s%09d%010d-%s-%s-%s%s",
		at.Format("20060102150405"), at.Nanosecond(), f.Clock.Logical, f.Unique, f.Table, f.Schema, exportSuffix)
}

func parseExportClock(digits string) (cdc.Timestamp, error) {
	if len(digits) != 33 || !consists(digits, isDigit) {
		return cdc.Timestamp{}, errors.New("does not begin with 33 digits")
	}
	at, err := time.Parse("20060102150405", digits[:14])
	if err != nil {
		return cdc.Timestamp{}, errors.New("does not begin with a date and time")
	}
	nanos, err := strconv.ParseInt(digits[14:23], 10, 64)
	if err != nil {
		return cdc.Timestamp{}, err
	}
	logical, err := strconv.ParseUint(digits[23:], 10, 32)
	if err != nil {
		return cdc.Timestamp{}, errors.New("has a logical clock that is out of range")
	}
	if at.Unix() < 0 || at.Unix() > (math.MaxInt64-nanos)/int64(time.Second) {
		return cdc.Timestamp{}, errors.New("has a date outside 1970 to 2262")
	}
	return cdc.Timestamp{Wall: at.Unix()*int64(time.Second) + nanos, Logical: uint32(logical)}, nil
}

// consists reports whether s is not empty and the given predicate is true for every byte of s.
func consists(s string, is func(c byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return s != ""
}

func isDigit(c byte) bool        { return c-'0' <= 9 }
func isTableName(c byte) bool    { return isDigit(c) || c-'a' < 26 || c == '_' }
func isAlphanumeric(c byte) bool { return isDigit(c) || c-'a' < 26 || c-'A' < 26 }
