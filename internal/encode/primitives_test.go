package encode

import "testing"

// TestHashesAreTheKnownOnes: rows keep their partitions when a user moves over.
func TestHashesAreTheKnownOnes(t *testing.T) {
	if got := fnv32a("1 2 3 4") % 10; got != 5 {
		t.Errorf(`fnv32a("1 2 3 4") mod 10 = %d`, got)
	}
	for text, want := range map[string]string{"hello": "26c7827d889f6da3", "": "ef46db3751d8e999"} {
		if got := hexHash(text); got != want {
			t.Errorf("hexHash(%q) = %s, want %s", text, got, want)
		}
	}
}

// TestWhiteSpaceIsFoundWhereverItIs compares the quick look for white space with
// a walk through the text.
func TestWhiteSpaceIsFoundWhereverItIs(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`: false, `{"a":1}`: false, `{"a b":"c d\" e"}`: false, `{"a":"\\"}`: false, `{"a":"\\\""}`: false, `"x"`: false, `-1.5e+3`: false, `""`: false,
		`{ }`: true, `{"a": 1}`: true, `{"a":1,` + "\n" + `"b":2}`: true, `[1,2] `: true, ` "x"`: true, `{"a":"\\" }`: true, `["a\"b" ,1]`: true, `{"a`: true,
	} {
		if got := spaced([]byte(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}
