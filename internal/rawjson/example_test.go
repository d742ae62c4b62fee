package rawjson_test

import (
	"fmt"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

func ExampleMembers() {
	m, err := rawjson.OpenObject([]byte(`{"id":"o-1","total":12345678901234567890}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for m.Next() {
		fmt.Printf("%s is %s\n", m.Name(), m.Value())
	}
	fmt.Println(m.Err())
	// Output:
	// id is "o-1"
	// total is 12345678901234567890
	// <nil>
}
