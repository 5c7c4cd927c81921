package hub

import (
	"os"
	"testing"

	"github.com/sealane/sealane/hub/apiserver/apiservertest"
)

func TestMain(m *testing.M) { os.Exit(apiservertest.Main(m)) }
