package main

import (
	"bytes"
	"testing"

	"github.com/sealane/sealane/cmd/sealane/hubapi"
	"github.com/sealane/sealane/topology"
)

// asWanted is a snapshot in which members report what the resources ask for.
func asWanted(s *hubapi.Snapshot) (*hubapi.Snapshot, *topology.Effective) {
	plan := topology.Compile(s.Input())
	for i := range s.Members {
		m := &s.Members[i]
		m.Status.DesiredHash = plan.Members[m.Name].Hash
		m.Status.HeldHash = m.Status.DesiredHash
	}
	return s, &topology.Effective{Plan: plan}
}

func TestDifference(t *testing.T) {
	s := snapshot(t, "testdata/fine.yaml")
	s, inEffect := asWanted(s)
	var out bytes.Buffer
	if d := difference(s, inEffect, false, nil); !d.Same {
		printDifference(testEnv(&out, &out), d)
		t.Errorf("a fine federation differs:\n%s", out.String())
	}
	s, inEffect = asWanted(snapshot(t, "testdata/broken.yaml"))
	for i := range s.Members {
		switch m := &s.Members[i]; m.Name {
		case "berlin":
			m.Status.HeldHash = "0123456789abcdef"
		case "tokyo":
			m.Status.Parts = "3/4"
		}
	}
	d := difference(s, inEffect, false, nil)
	out.Reset()
	printDifference(testEnv(&out, &out), d)
	golden(t, "broken-diff", out.String())
	out.Reset()
	if err := printYAML(&out, d); err != nil {
		t.Fatal(err)
	}
	golden(t, "broken-diff-yaml", out.String())
	if one := difference(s, inEffect, false, []string{"tokyo"}); len(one.Members) != 1 || len(one.Refused) != 0 {
		t.Errorf("not only tokyo: %+v", one)
	}
}

func TestDifferenceOfTheHub(t *testing.T) {
	s, inEffect := asWanted(snapshot(t, "testdata/fine.yaml"))
	s.Members[0].Status.DesiredHash, s.Members[0].Status.HeldHash = "old", "old"
	d := difference(s, inEffect, false, nil)
	if d.Same || len(d.Members) != 1 || len(d.Members[0].Found) != 1 || d.Members[0].Found[0].What != "hub" {
		t.Errorf("the hub that is behind: %+v", d)
	}
}
