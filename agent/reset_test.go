package agent

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPositionOfReset(t *testing.T) {
	for name, c := range map[string]struct{ answer, want string }{
		"ran ahead": {
			`{"type":"t","reset_seq":4,"consumer_info":{"name":"c","delivered":{"consumer_seq":65,"stream_seq":69},"num_pending":0}}`,
			`{"type":"t","reset_seq":4,"consumer_info":{"name":"c","delivered":{"consumer_seq":0,"stream_seq":3},"num_pending":0}}`,
		},
		"where it was reset to": {
			`{"reset_seq":1,"consumer_info":{"delivered":{"consumer_seq":0,"stream_seq":0}}}`,
			`{"reset_seq":1,"consumer_info":{"delivered":{"consumer_seq":0,"stream_seq":0}}}`,
		},
		"no reset":     {`{"consumer_info":{"delivered":{"stream_seq":9}}}`, `{"consumer_info":{"delivered":{"stream_seq":9}}}`},
		"error":        {`{"error":{"code":404}}`, `{"error":{"code":404}}`},
		"no object":    {`"reset_seq"`, `"reset_seq"`},
		"without info": {`{"reset_seq":4,"consumer_info":null}`, `{"reset_seq":4,"consumer_info":null}`},
	} {
		t.Run(name, func(t *testing.T) {
			var got, want any
			if err := json.Unmarshal(positionOfReset([]byte(c.answer)), &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if got := string(positionOfReset([]byte("not JSON"))); got != "not JSON" {
		t.Errorf("an answer that is no JSON became %q", got)
	}
}

func FuzzPositionOfReset(f *testing.F) {
	f.Add([]byte(`{"reset_seq":4,"consumer_info":{"delivered":{"stream_seq":69}}}`))
	f.Add([]byte(`{"reset_seq":18446744073709551615,"consumer_info":{}}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		if got := positionOfReset(answer); json.Valid(answer) && !json.Valid(got) {
			t.Errorf("%q became %q, which is no JSON", answer, got)
		}
	})
}
